"""A sweep that is killed again and again, and sweeps that share a folder: are the results those of an undisturbed sweep?

`python benchmarks/sweep_storm.py --out FOLDER [--kills 50] [--runs 60] [--sweeps 1] [--workers 2] [--seed 0]`

Runs are tiny (a two-layer model, three steps) and real: calibration, initialisation, training, every file. First one sweep
goes through undisturbed. Then the same runs are swept into another folder, while a parent, a worker or all of them get SIGKILL at
seeded random moments; each time the sweep is started again. At the end the two folders must hold the same results and adapters.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

TESTS = Path(__file__).resolve().parents[1]
METHODS = ("lora", "pissa", "filet", "lora-da")
# A worker with the tests' data; it notes each run that it ends, and each calibration pass.
WORKER = """
import os, psutil
from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.records import ResultStore
from hubinit.calibration import shared
from hubinit.runs import worker
pool = [Example(f"What comes after number {i}?", f" It is {i + 1}." * (1 + i % 3)) for i in range(11)]
tasks.training_examples = lambda data, seed: (pool, pool[:3])
write, calibrate = ResultStore.write, shared.calibrate
def note(what):
    with open(os.environ["STORM_NOTES"], "a") as file:
        file.write(what + "\\n")
def noted(store, result):
    written = write(store, result)
    note(f"done {result.key}")
    note(f"memory {psutil.Process().memory_info().rss}")
    return written
def calibrated(*args, **options):
    note("calibrated")
    return calibrate(*args, **options)
ResultStore.write, shared.calibrate = noted, calibrated
worker.main()
"""


def main() -> int:
    """Storms, compares, and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in (("kills", 50), ("runs", 60), ("sweeps", 1), ("workers", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        sweep_here(options.child, options.out, options.runs, options.workers)
        return 0
    seen = storm(options.out, options.kills, options.runs, options.sweeps, options.workers, options.seed)
    (options.out / "sweep-storm.json").write_text(json.dumps(seen, indent=1) + "\n")
    print(json.dumps(seen, indent=1))
    return 1 if seen["problems"] else 0


def storm(out: Path, kills: int, runs: int, sweeps: int, workers: int, seed: int) -> dict[str, Any]:
    """Sweeps undisturbed, then in the storm, and compares."""
    from tests import texts

    base = out / "model"
    if not base.exists():
        texts.save_model(base)
    calm, wild = out / "calm", out / "wild"
    started = time.monotonic()
    for child in start(base, calm, runs, 1, workers):
        if child.wait():
            raise RuntimeError(f"the undisturbed sweep failed; see {calm}.log")
    alone = time.monotonic() - started
    dice, count = random.Random(seed), Counter[str]()
    children = start(base, wild, runs, sweeps, workers)
    while count.total() < kills:
        if dice.random() < 0.8:  # else at any moment, also while everything starts
            wait_for_work(children, wild)
        time.sleep(dice.uniform(0.0, 3.0))
        if all(child.poll() == 0 for child in children):
            break  # it has got through: no more to be killed
        target = dice.choice(("parent", "worker", "all"))
        count[target] += kill(dice.choice(children), target, dice)
        for number, child in enumerate(children):
            if child.poll() is not None:
                children[number] = start(base, wild, runs, 1, workers, first=number)[0]
    codes = [child.wait() for child in children]
    for child in start(base, wild, runs, 1, workers):  # what a worker's death left as failed
        codes.append(child.wait())
    memory = [int(rss) / 1e6 for rss in noted(calm, "memory")]
    begun = {"undisturbed": len(noted(calm, "calibrated")), "in_the_storm": len(noted(wild, "calibrated"))}
    return {
        "kills": count,
        "seconds_undisturbed": round(alone),
        "calibrations_begun": begun,
        "worker_memory_MB": {"first_ten": round(median(memory[:10])), "last_ten": round(median(memory[-10:]))},
        "problems": compare(calm, wild, runs, codes),
    }


def wait_for_work(children: Sequence["subprocess.Popen[bytes]"], wild: Path) -> None:
    """Waits until a run is in the middle, or all is done: the most of a start is the import of libraries."""
    logs = [Path(f"{wild}.{number}.log") for number in range(len(children))]
    sizes = [log.stat().st_size for log in logs]
    while any(child.poll() is None for child in children):
        if any("progress" in log.read_text()[size:] for log, size in zip(logs, sizes, strict=True)):
            return
        time.sleep(0.2)


def start(
    base: Path, store: Path, runs: int, sweeps: int, workers: int, first: int = 0
) -> list["subprocess.Popen[bytes]"]:
    """Starts sweeps on one folder."""
    store.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "STORM_NOTES": str(store / "notes"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        __file__,
        "--child",
        str(base),
        "--out",
        str(store),
        "--runs",
        str(runs),
        "--workers",
        str(workers),
    ]
    children = []
    for number in range(first, first + sweeps):
        with Path(f"{store}.{number}.log").open("ab") as log:
            children.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return children


def kill(child: "subprocess.Popen[bytes]", target: str, dice: random.Random) -> int:
    """Kills the parent, one of its workers, or all; returns 1 where there was something to kill."""
    try:
        parent = psutil.Process(child.pid)
        workers = parent.children()
        victims = {"parent": [parent], "worker": dice.sample(workers, min(1, len(workers))), "all": [parent, *workers]}
        for victim in victims[target]:
            os.kill(victim.pid, signal.SIGKILL)
        if parent in victims[target]:
            child.wait()
        return 1 if victims[target] else 0
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0


def sweep_here(base: Path, out: Path, runs: int, workers: int) -> None:
    """One sweep, in this process."""
    from hubinit.records import ResultStore
    from hubinit.runs.executors.process import WorkerProcess
    from hubinit.runs.executors.slots import SlotExecutor
    from hubinit.runs.plan import PlannedRun
    from hubinit.runs.stored import read_stored
    from hubinit.runs.sweep import sweep

    script = out / "worker.py"
    script.write_text(WORKER)
    store = ResultStore(out)
    planned = [PlannedRun(spec, "boolq", (), read_stored(store, spec.key)) for spec in specs(base, runs)]
    slots = [WorkerProcess((sys.executable, str(script)), name=f"worker {number}") for number in range(workers)]
    sweep(
        planned,
        store,
        executor=SlotExecutor(slots),
        retries=1,
        on_event=lambda event: print(time.time(), event, flush=True),
    )


def specs(base: Path, runs: int) -> list[Any]:
    """So many runs: methods and seeds."""
    from hubinit.specs import CalibrationSpec, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec

    return [
        RunSpec(
            model=ModelSpec(id=str(base), dtype="float32"),
            method=MethodSpec(name=method),
            rank=2,
            alpha=4,
            data=DataSpec(tasks=("boolq",)),
            recipe=Recipe(steps=3, batch_size=4, micro_batch_size=2, max_length=64),
            calibration=CalibrationSpec(samples=8, max_length=64) if method in {"filet", "lora-da"} else None,
            learning_rate=1e-2,
            seed=seed,
        )
        for seed in range(-(-runs // len(METHODS)))
        for method in METHODS
    ][:runs]


def compare(calm: Path, wild: Path, runs: int, codes: Sequence[int]) -> list[str]:
    """What is not as it would have been."""
    from hubinit.records import ResultStore

    problems = [f"a last sweep ended with {code}" for code in codes if code]
    expected, found = (
        {result.key: result for result in ResultStore(store).results(problems.append)} for store in (calm, wild)
    )
    if len(expected) != runs or any(result.status != "ok" for result in expected.values()):
        problems.append("the undisturbed sweep is not whole")
    problems += [f"lost: {key}" for key in expected.keys() - found.keys()]
    for key, result in found.items():
        one = expected[key]
        for name in ("status", "adapter_sha256", "validation_loss", "curve", "scores", "gates", "initialisation"):
            was, now = (untimed(getattr(each, name)) for each in (one, result))
            if was != now:
                problems.append(f"{key} {result.spec.method.name}: {name} {now}, not {was}")
    for store in (calm, wild):
        ends = Counter(noted(store, "done"))
        problems += [f"{store.name}: done {count} times: {key}" for key, count in ends.items() if count > 1]
    problems += [f"left: {path}" for pattern in (".*.tmp", "checkpoints") for path in wild.rglob(pattern)]
    return problems


def untimed(value: Any) -> Any:
    """A field of a result without the seconds in it."""
    return {name: one for name, one in value.items() if name != "seconds"} if isinstance(value, dict) else value


def noted(store: Path, word: str) -> list[str]:
    """What the workers noted under a word, in order."""
    return [line.split(" ")[-1] for line in (store / "notes").read_text().splitlines() if line.startswith(word)]


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    sys.exit(main())
