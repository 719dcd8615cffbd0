"""The app on many runs: cold start to an interactive table, response of a filter as the browser sees it, memory of the server.

    python benchmarks/leaderboard_app.py --runs 10000 --folder /tmp/many [--out FILE]

The runs are rows of a table that is built as `hubinit leaderboard build` does, without item records; it is kept in the folder.
Needs `hubinit[app]`, playwright and a Chromium. The cold start counts from the start of Python to a ranking that can be filtered.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
from leaderboard_build import all_specs
from playwright.sync_api import Page, sync_playwright

from hubinit.leaderboard.build import Claims, build, is_built
from hubinit.leaderboard.table import table
from hubinit.records import Cost, CurvePoint, Provenance, RunResult, Score
from hubinit.runs.costs import provenance
from hubinit.specs import EvalSpec

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
SERVER = """
import sys
from hubinit.leaderboard.app.server import launch, wait
from hubinit.leaderboard.app.source import opened
with opened(sys.argv[1]) as data:
    wait(launch(data, port=int(sys.argv[2]))[0])
"""
FILTERED = """async ([name, value]) => {
    const shown = document.querySelector(".bar"), control = document.querySelector(`select[name=${name}]`);
    const start = performance.now();
    control.value = value;
    control.dispatchEvent(new Event("change", {bubbles: true}));
    while (shown.isConnected && performance.now() < start + 30_000) await new Promise(requestAnimationFrame);
    return performance.now() - start;
}"""
REPEATS = 5


def main() -> None:
    """Builds the leaderboard if it is not there, measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the leaderboard is built and kept")
    parser.add_argument("--out", type=Path, help="file to record the numbers in")
    options = parser.parse_args()
    board = options.folder / f"board-{options.runs}"
    if not is_built(board):
        build([], [Claims("synthetic", table(map(run, all_specs(), range(options.runs))))], board)
    found = {"runs": options.runs} | measure(board) | {"load_average": os.getloadavg()[0]}
    found |= provenance(f"python benchmarks/leaderboard_app.py --runs {options.runs}").model_dump()
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def run(spec, number):
    """A finished run whose numbers follow from its own."""
    value = 0.5 + (number * 7919 % 997) / 9970
    score = Score(
        task="arc-easy", metric="acc", value=value, n=200, stderr=0.03, primary=True, eval=EvalSpec(task="arc-easy")
    )
    return RunResult(
        key=spec.key,
        spec=spec,
        status="ok",
        scores=(score,),
        validation_loss=2 - value,
        costs={name: Cost(seconds=1.0 + number % 89, peak_memory_bytes=10**9) for name in ("initialise", "train")},
        curve=tuple(CurvePoint(step=step, loss=3 - value * step / 100) for step in range(1, 101)),
        provenance=Provenance(
            versions={"torch": "2"}, hardware={"cpu": "x"}, command="hubinit bench", created="2026-11-01T00:00:00Z"
        ),
    )


def measure(board: Path) -> dict[str, object]:
    """Starts the app in a process of its own and a browser before it, and looks at the ranking as a reader does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        start = time.perf_counter()
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(board), str(port)])
        try:
            wait_for(port)
            listening = time.perf_counter() - start
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("table.ranking")
            interactive = time.perf_counter() - start
            lines = page.inner_text(".bar strong")
            filters = [respond(page, "method", value) for _ in range(REPEATS) for value in ("filet", "eva", "")]
            searches = [respond(page, "model", value) for _ in range(REPEATS) for value in ("org/model-7", "")]
            memory = psutil.Process(server.pid).memory_info().rss // 2**20
            return {
                "lines": lines,
                "listening_seconds": round(listening, 2),
                "interactive_seconds": round(interactive, 2),
                "filter_ms": {"median": round(median(filters + searches)), "slowest": round(max(filters + searches))},
                "server_memory_mb": memory,
            }
        finally:
            server.terminate()
            server.wait()
            browser.close()


def wait_for(port: int) -> None:
    """Until something listens there.

    Raises:
        TimeoutError: nothing does after a minute.
    """
    for _ in range(1200):
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("The app does not listen.")


def respond(page: Page, name: str, value: str) -> float:
    """Milliseconds from the choice in a filter to the new table."""
    return float(page.evaluate(FILTERED, [name, value]))


if __name__ == "__main__":
    main()
