"""What the embedded Hub carries: 100 clients of the real huggingface_hub, a list of 1,000 repos, bodies that nobody may send.

Server and clients share this machine, and the clients are the heavier part: read the numbers side by side, not as a limit of the
server. `--against REF` measures the same with the server of another commit.

    python benchmarks/hub_load.py --against 0d9bd87
"""

import argparse
import http.client
import io
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hubinit.devhub.store import Store

ROOT = Path(__file__).resolve().parents[1]
REPO, REPOS, TOKEN = "org/loaded", 1000, "hf_bench"
SMALL, LARGE = 64 << 10, 1 << 20
CLIENTS, PROCESSES = 100, 2
BODY = 200 << 20
SERVE = f"""
import sys
from pathlib import Path
from hubinit.devhub.server import serve
serve(Path(sys.argv[1]), port=0, users={{"bench": "{TOKEN}"}})
"""


def main() -> int:
    """Fills a Hub, measures every version, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="a commit whose server is measured beside this one")
    parser.add_argument("--seconds", type=float, default=20.0, help="of held load")
    parser.add_argument("--note", default="", help="what else the machine did meanwhile")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "hub"
        fill(root)
        versions = {"this": ROOT}
        if options.against:
            versions = {options.against: extract(options.against, Path(folder) / "other")} | versions
        rows = [measure(name, code, root, options.seconds) for name, code in versions.items()]
    write(rows, options)
    return 0


def fill(root: Path) -> None:
    """Makes a root with a repo to load, and a thousand to list."""
    store = Store(root)
    store.create_repo("model", REPO)
    content = {
        "README.md": b"---\nlicense: mit\n---\n",
        "small.json": os.urandom(SMALL),
        "large.bin": os.urandom(LARGE),
    }
    store.commit("model", REPO, content, message="fill", author="org")
    for number in range(REPOS):
        name = f"org/listed-{number:04d}"
        store.create_repo("model", name)
        card = f"---\nlicense: mit\ntags: [listed, n{number}]\n---\n# {name}\n".encode()
        store.commit(
            "model", name, {"README.md": card, "config.json": b'{"model_type": "llama"}'}, message="x", author="org"
        )
    store.close()


def extract(reference: str, folder: Path) -> Path:
    """The package of another commit of this repository."""
    archive = subprocess.run(["git", "archive", reference, "hubinit"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    return folder


@contextmanager
def serving(code: Path, root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server of this code in a process of its own: its address and process."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    command = [sys.executable, "-c", SERVE, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root.parent) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield found[0], psutil.Process(process.pid)
        finally:
            process.kill()


@contextmanager
def watched(process: psutil.Process) -> Iterator[dict[str, float]]:
    """Memory of a process while the block runs, in MB, and its processor time in seconds."""
    before, seconds, done = process.memory_info().rss / 1e6, sum(process.cpu_times()[:2]), threading.Event()
    seen = {"start": before, "peak": before}

    def look() -> None:
        while not done.wait(0.01):
            seen["peak"] = max(seen["peak"], process.memory_info().rss / 1e6)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen["cpu"] = sum(process.cpu_times()[:2]) - seconds


def measure(name: str, code: Path, root: Path, seconds: float) -> dict[str, Any]:
    """All numbers of one version of the server; every part has a server of its own."""
    row: dict[str, Any] = {"version": name}
    with serving(code, root) as (url, process):
        row["memory_idle"] = process.memory_info().rss / 1e6
        row["listing"] = in_child(url, lists, 5)
    with serving(code, root) as (url, process), watched(process) as seen, ThreadPoolExecutor(PROCESSES) as pool:
        parts = list(pool.map(lambda _: in_child(url, load, seconds), range(PROCESSES)))
    times = sorted(time for part in parts for time in part["times"])
    held = max(part["held"] for part in parts)
    row["load"] = {
        "requests_per_second": sum(part["requests"] for part in parts) / held,
        "megabytes_per_second": sum(part["bytes"] for part in parts) / held / 1e6,
        "calls": len(times),
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "failed": sum(part["failed"] for part in parts),
        "memory_peak": seen["peak"],
        "server_cpu_share": seen["cpu"] / held,
    }
    with serving(code, root) as (url, process), watched(process) as seen, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send_large(url), range(4)))
    row["bodies"] = {"answers": answers, "memory_growth": seen["peak"] - seen["start"]}
    print(json.dumps(row), flush=True)
    return row


def in_child(url: str, function: Any, argument: float) -> Any:
    """Runs a function in a fresh process in which huggingface_hub knows this server only."""
    with tempfile.TemporaryDirectory() as home:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        environment = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": home}
        child = context.Process(target=run_child, args=(environment, function, argument, theirs))
        child.start()
        result = ours.recv()
        child.join()
        return result


def run_child(environment: dict[str, str], function: Any, argument: float, pipe: Any) -> None:
    """What the child does: sets the environment before the library is imported, and answers."""
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= environment | quiet
    pipe.send(function(argument))


def lists(times: float) -> dict[str, float]:
    """Seconds to list all repos with everything that a list shows: the first time, and the median of the others."""
    from huggingface_hub import HfApi

    taken = []
    for _ in range(int(times)):
        start = time.perf_counter()
        found = list(HfApi().list_models(full=True))
        taken.append(time.perf_counter() - start)
        assert len(found) == REPOS + 1
    return {"first": taken[0], "median": statistics.median(taken[1:])}


def load(seconds: float) -> dict[str, Any]:
    """Half of the clients, each a thread that asks for information, a tree, and a file of either size, again and again."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import get_session

    counted, lock = {"requests": 0, "bytes": 0, "failed": 0}, threading.Lock()

    def count(response: Any) -> None:
        with lock:
            counted["requests"] += 1
            if response.request.method == "GET":
                counted["bytes"] += int(response.headers.get("content-length", 0))

    session = get_session()
    session.event_hooks = {**session.event_hooks, "response": [*session.event_hooks.get("response", []), count]}
    times: list[float] = []
    api, start = HfApi(), time.perf_counter()

    def client(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:

            def fetch(name: str) -> Any:
                return hf_hub_download(REPO, name, cache_dir=folder, force_download=True)

            calls = [
                lambda: api.model_info(REPO),
                lambda: list(api.list_repo_tree(REPO)),
                lambda: fetch("small.json"),
                lambda: fetch("large.bin"),
            ]
            turn = number
            while time.perf_counter() - start < seconds:
                began = time.perf_counter()
                try:
                    calls[turn % len(calls)]()
                except Exception:  # whatever a client may fail with under load is a number of the record
                    counted["failed"] += 1
                times.append(time.perf_counter() - began)
                turn += 1

    with ThreadPoolExecutor(CLIENTS // PROCESSES) as pool:
        list(pool.map(client, range(CLIENTS // PROCESSES)))
    return counted | {"times": times, "held": time.perf_counter() - start}


def send_large(url: str) -> str:
    """Sends 200 MB without a token; the status, or how the connection ended."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    headers = {"Content-Type": "application/x-ndjson", "Content-Length": str(BODY)}
    pieces = (bytes(1 << 20) for _ in range(BODY >> 20))
    try:
        connection.request("POST", f"/api/models/{REPO}/commit/main", pieces, headers)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Writes the record as JSON and as a table."""
    from hubinit.runs.costs import provenance
    from hubinit.runs.sweep import command_line

    facts = provenance(command_line()).model_dump(mode="json")
    about = {"clients": CLIENTS, "client_processes": PROCESSES, "seconds": options.seconds, "note": options.note}
    machine = facts["hardware"]
    lines = [
        f"# The embedded Hub under load: {CLIENTS} clients, {machine['cpu']}, {machine['cores']} cores",
        "",
        f"`{facts['command']}`, {facts['created'][:10]}. Server and clients share the machine. {options.note}".strip(),
        "",
        "| | " + " | ".join(row["version"] for row in rows) + " |",
        "|---|" + "--:|" * len(rows),
    ]
    shown = {
        "requests per second": lambda row: f"{row['load']['requests_per_second']:.0f}",
        "MB per second": lambda row: f"{row['load']['megabytes_per_second']:.1f}",
        "median of a call (s)": lambda row: f"{row['load']['p50']:.2f}",
        "p99 of a call (s)": lambda row: f"{row['load']['p99']:.2f}",
        "failed calls": lambda row: f"{row['load']['failed']} of {row['load']['calls']}",
        "processor time of the server ÷ time": lambda row: f"{row['load']['server_cpu_share']:.2f}",
        "memory when idle (MB)": lambda row: f"{row['memory_idle']:.0f}",
        "memory under load, peak (MB)": lambda row: f"{row['load']['memory_peak']:.0f}",
        f"listing {REPOS + 1} repos, the first time (s)": lambda row: f"{row['listing']['first']:.2f}",
        f"listing {REPOS + 1} repos, again (s)": lambda row: f"{row['listing']['median']:.2f}",
        "4 × 200 MB without a token: answers": lambda row: ", ".join(row["bodies"]["answers"]),
        "4 × 200 MB without a token: growth (MB)": lambda row: f"{row['bodies']['memory_growth']:.0f}",
    }
    lines += [f"| {what} | " + " | ".join(show(row) for row in rows) + " |" for what, show in shown.items()]
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / "hub_load-cpu"
    stem.with_suffix(".json").write_text(json.dumps({**facts, **about, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
