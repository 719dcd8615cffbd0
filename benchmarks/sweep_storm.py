"""A sweep that is killed again and again, and sweeps that share a folder: are the results those of an undisturbed sweep?

`python benchmarks/sweep_storm.py --out FOLDER [--kills 50] [--runs 60] [--sweeps 1] [--workers 2] [--seed 0]`

Runs are tiny (a two-layer model, three steps) and real: calibration, initialisation, training, every file. First one sweep goes
through undisturbed. Then the same runs are swept into another folder, while a parent, a worker or all of them get SIGKILL at
seeded random moments; each time the sweep is started again. At the end the two folders must hold the same results and adapters.

All processes are forked from this one, which has the libraries imported: that spares most of each start.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hubinit import tasks  # noqa: E402
from hubinit.calibration import shared  # noqa: E402
from hubinit.data.encode import Example  # noqa: E402
from hubinit.records import ResultStore, RunResult  # noqa: E402
from hubinit.runs import worker  # noqa: E402
from hubinit.runs.executors.process import WorkerProcess  # noqa: E402
from hubinit.runs.executors.slots import SlotExecutor  # noqa: E402
from hubinit.runs.plan import PlannedRun  # noqa: E402
from hubinit.runs.stored import read_stored  # noqa: E402
from hubinit.runs.sweep import sweep  # noqa: E402
from hubinit.specs import CalibrationSpec, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec  # noqa: E402

METHODS = ("lora", "pissa", "filet", "lora-da")


class Fork:
    """A child process that calls a function: what `subprocess.Popen` is for a program, as far as it is needed here."""

    def __init__(self, call: Callable[[], None], log: Path, *, pipes: bool = False) -> None:
        """Starts it.

        Args:
            call: what it does.
            log: where its output goes.
            pipes: it reads from `stdin` and writes to `stdout` instead.
        """
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        log.touch()
        orders, send = os.pipe()
        hear, events = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                for number, here in enumerate((orders, events if pipes else output, output)):
                    os.dup2(here, number)
                os.closerange(3, 4096)  # also the pipes of other children, which end when their parent does
                call()
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
        os.close(orders)
        os.close(events)
        self.stdin, self.stdout = os.fdopen(send, "wb"), os.fdopen(hear, "rb")

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended."""
        while (code := self._reap(0)) is None:
            time.sleep(0.01)
        return code

    def _reap(self, how: int) -> int | None:
        if self.returncode is None:
            with suppress(ChildProcessError):  # another thread was faster
                pid, status = os.waitpid(self.pid, how)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class ForkedWorker(WorkerProcess):
    """A worker that is forked from its sweep."""

    def _worker(self, logs: Path) -> Any:
        if self.process is None or self.process.poll() is not None:
            self.close()
            logs.mkdir(parents=True, exist_ok=True)
            self.process = Fork(worker.main, logs / "worker.log", pipes=True)  # type: ignore[assignment]
            if self.killed:
                self.process.kill()
        return self.process


def prepare(notes: Path) -> None:
    """Gives this process and its workers the data; they note each run that ends, and each calibration pass."""
    pool = [Example(f"What comes after number {i}?", f" It is {i + 1}." * (1 + i % 3)) for i in range(11)]
    write, calibrate = ResultStore.write, shared.calibrate

    def note(*lines: str) -> None:
        with notes.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def written(store: ResultStore, result: RunResult) -> RunResult:
        stored = write(store, result)
        if stored.status == "ok":  # a worker's death is stored as failed before the run is tried again
            note(f"done {result.key}", f"memory {psutil.Process().memory_info().rss}")
        return stored

    def calibrated(*arguments: Any, **options: Any) -> Any:
        note("calibrated")
        return calibrate(*arguments, **options)

    tasks.training_examples = lambda data, seed: (pool, pool[:3])  # type: ignore[assignment]
    ResultStore.write, shared.calibrate = written, calibrated  # type: ignore[method-assign]


def main() -> int:
    """Storms, compares, and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in (("kills", 50), ("runs", 60), ("sweeps", 1), ("workers", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
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


def wait_for_work(children: Sequence[Fork], wild: Path) -> None:
    """Waits until a run is in the middle, or all is done."""
    logs = [Path(f"{wild}.{number}.log") for number in range(len(children))]
    sizes = [log.stat().st_size for log in logs]
    while any(child.poll() is None for child in children):
        if any("progress" in log.read_text()[size:] for log, size in zip(logs, sizes, strict=True)):
            return
        time.sleep(0.05)


def start(base: Path, store: Path, runs: int, sweeps: int, workers: int, first: int = 0) -> list[Fork]:
    """Starts sweeps on one folder."""
    store.mkdir(parents=True, exist_ok=True)
    return [
        Fork(lambda: sweep_here(base, store, runs, workers), Path(f"{store}.{number}.log"))
        for number in range(first, first + sweeps)
    ]


def kill(child: Fork, target: str, dice: random.Random) -> int:
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
    prepare(out / "notes")
    store = ResultStore(out)
    planned = [PlannedRun(spec, "boolq", (), read_stored(store, spec.key)) for spec in specs(base, runs)]
    slots = [ForkedWorker(name=f"worker {number}") for number in range(workers)]

    def say(event: Any) -> None:
        print(round(time.time(), 2), event, flush=True)

    sweep(planned, store, executor=SlotExecutor(slots), retries=1, on_event=say)


def specs(base: Path, runs: int) -> list[RunSpec]:
    """So many runs: methods and seeds."""
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
    sys.exit(main())
