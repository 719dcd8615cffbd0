"""As many runs of a methods × learning rates × seeds grid as fit into the time, several at once on one GPU; `make study-gpu`.

The grid is `gpu_study.yaml`, planned and run by what `hubinit bench` uses. Runs go in rounds: every method at one learning
rate and one seed before the next, so that a study that is cut off compares like with like. Results lie in `--out` as everywhere
(`runs/KEY/result.json`), each copied there as soon as it is finished; a second call with the same `--out` goes on. Adapters stay
in `--work`, and only until their run is scored.
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from studies.rounds import drop_weights, in_order, rounds, say

from hubinit.errors import HubinitError
from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.spec import Slot
from hubinit.runs.job import Died, Finished, Job
from hubinit.runs.line import LOADS
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.sweep import jobs, store_death

PROTOCOL = Path(__file__).with_name("gpu_study.yaml")
REHEARSAL = (
    "samples=16 validation_samples=4 limit=4 calibration_samples=4 rank=4 seeds=[0] learning_rates=[5e-4,2e-4] eval_batch_size=4 "
    "recipe.steps=2 recipe.batch_size=2 recipe.micro_batch_size=2"
)


class Line:
    """The jobs that wait, in order, for workers that ask for them from their own threads.

    Until one data-aware run has finished, no second one starts: it leaves the calibration that the others share.
    """

    def __init__(self, waiting: Sequence[Job], end: float) -> None:
        self.waiting = list(waiting)
        self.end = end
        self.calibrated = False
        self.calibrating: str | None = None  # key of the run that makes the calibration
        self.lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    def next(self) -> Job | None:
        """The next job that may start, or None: nothing is left, the time is up, or all that is left waits for a calibration."""
        with self.lock:
            for job in () if self.over else self.waiting:
                if job.spec.calibration is not None and not self.calibrated:
                    if self.calibrating is not None:
                        continue
                    self.calibrating = job.spec.key
                self.waiting.remove(job)
                return job
            return None

    def finish(self, job: Job) -> None:
        """To be called when a job has ended, however it ended."""
        with self.lock:
            if job.spec.key == self.calibrating:
                self.calibrated, self.calibrating = True, None


def main() -> int:
    """Plans, takes over what is finished, runs until the time is up, and says how far it came."""
    options = arguments()
    end = time.monotonic() + options.seconds
    store, kept = ResultStore(options.work), ResultStore(options.out)
    try:
        take_over(kept, store)
        planned = rounds(plan(request(options.rehearse), store, on_lost=say, on_note=say))
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    batch = request(options.rehearse).read_protocol().eval_batch_size
    todo = in_order(jobs(planned, store, eval_batch_size=batch, force=False), planned)
    say(f"{len(planned)} runs, {len(planned) - len(todo)} finished before, {options.workers} at once")
    done = run_all(todo, store, kept, [WorkerProcess() for _ in range(options.workers)], end)
    write_record(options, planned, done, len(planned) - len(todo))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def request(rehearse: bool) -> Request:
    """The grid: every registered method and the base, on one model and one task."""
    overrides = tuple(REHEARSAL.split()) if rehearse else ()
    methods = ("none", "lora", "pissa", "filet", "lora-da") if rehearse else ("none", "all")
    return Request(("smollm2-135m",), methods, ("arc-easy",), protocol=str(PROTOCOL), overrides=overrides)


def take_over(kept: ResultStore, store: ResultStore) -> None:
    """Makes what an earlier call finished count as done here, also on another machine, and the other way round.

    A partial result would ask for its adapter, which is not here any more, so it is done again.
    """
    for source, target in ((kept, store), (store, kept)):
        for result in source.results(say):
            if result.status in {"ok", "diverged"} and target.readable(result.key) is None:
                target.write(result)


def run_all(
    todo: Sequence[Job], store: ResultStore, kept: ResultStore, executors: Sequence[Slot], end: float
) -> list[RunResult]:
    """Does the jobs, each executor one at a time, until all are done or the time is up; a run that is cut off leaves nothing.

    Args:
        todo: in the order in which they are to start.
        store: where the workers leave everything.
        kept: where results are copied to.
        executors: as many jobs run at once.
        end: of `time.monotonic`.

    Returns:
        The results, in the order in which they came.
    """
    line, done = Line(todo, end), list[RunResult]()
    threads = [
        threading.Thread(target=serve, args=(line, executor, store, kept, done), daemon=True) for executor in executors
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not line.over:
        time.sleep(0.2)
    if line.over:
        for executor in executors:  # in the middle of a run; the threads that listen to it end with this process
            if isinstance(executor, WorkerProcess) and executor.process is not None:
                executor.process.kill()
    else:
        for executor in executors:
            executor.close()
    return list(done)


def serve(line: Line, executor: Slot, store: ResultStore, kept: ResultStore, done: list[RunResult]) -> None:
    """Takes jobs until none is left; after two workers that died loading the base, this executor takes no more."""
    deaths = 0
    while not line.over and deaths < LOADS:
        job = line.next()
        if job is None:
            if not line.waiting:
                return
            time.sleep(0.1)
            continue
        for event in executor.do(job):
            if line.over:
                return
            if isinstance(event, Died):
                deaths += event.loading
                event = store_death(event, job, store)
            if isinstance(event, Finished) and (result := store.readable(event.key)) is not None:
                keep(result, store, kept)
                done.append(result)
                spec = result.spec
                say(f"{len(done):4d} {spec.method.name:<12} lr {spec.learning_rate:g} seed {spec.seed}: {told(result)}")
        line.finish(job)


def keep(result: RunResult, store: ResultStore, kept: ResultStore) -> None:
    """Copies a result to where the next call looks for it, and drops the weights of a run that is finished."""
    kept.write(result)
    drop_weights(result, store)


def told(result: RunResult) -> str:
    """A result in a few words."""
    score = next((f"{score.value:.3f}" for score in result.scores if score.primary), "no score")
    return f"{result.status}, {score}" + (f" ({result.reason})" if result.reason else "")


def write_record(
    options: argparse.Namespace, planned: Sequence[PlannedRun], done: Sequence[RunResult], before: int
) -> None:
    """How far the study came; the scores are in the results themselves."""
    now = Counter(result.status for result in done)
    record = {
        "planned": len(planned),
        "finished_before": before,
        "now": now,
        "workers": options.workers,
        "seconds": options.seconds,
    }
    (options.out / "gpu-study-progress.json").write_text(json.dumps(record, indent=1) + "\n")
    counts = ", ".join(f"{count} {status}" for status, count in now.items()) or "none"
    print(f"{len(planned)} runs planned, {before} finished before, now: {counts}")


if __name__ == "__main__":
    sys.exit(main())
