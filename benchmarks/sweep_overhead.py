"""What hubinit itself takes: a plan of 10,000 runs with 9,990 cached, up to the first job handed out, and its own part of a run.

`python benchmarks/sweep_overhead.py [--runs 10000] [--left 10]`

The results are as large as real ones: 200 points of a curve, the scores of eight tasks. Prints seconds and peaks of the memory.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

from hubinit import tasks
from hubinit.models import names
from hubinit.records import CurvePoint, Provenance, ResultStore, RunResult, Score
from hubinit.runs import plan as planning
from hubinit.runs.costs import peak_memory, provenance, reset_peak_memory
from hubinit.runs.job import Event, Finished, Job
from hubinit.runs.line import Line
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.sweep import sweep

TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc-easy", "arc-challenge", "openbookqa", "siqa")


class Taken:
    """An executor that does nothing: it stores a result for each job."""

    def __init__(self) -> None:
        self.first: tuple[float, float, int] | None = None

    def run(self, line: Line) -> Iterator[Event]:
        """Ends each job at once; see `Executor`."""
        while (job := line.take()) is not None:
            self.first = self.first or (time.perf_counter(), time.process_time(), peak_memory())
            ResultStore(job.store).write(result_of(job))
            event = Finished(key=job.spec.key, status="ok")
            line.end(job, event)
            yield event

    def close(self) -> None:
        """Nothing is running."""


def result_of(run: Job | PlannedRun) -> RunResult:
    """A result of usual size."""
    curve = tuple(CurvePoint(step=step, loss=1 / step, grad_norm=0.1, learning_rate=1e-4) for step in range(1, 201))
    scores = [
        Score(task=e.task, metric=metric, value=0.5, n=1000, stderr=0.01, eval=e, items="0" * 64)
        for e in run.evaluations
        for metric in ("acc", "acc_norm")
    ]
    made = Provenance(versions={"torch": "2"}, hardware={"cpu": "x"}, command="hubinit bench", created="2026-01-01")
    return RunResult(key=run.spec.key, spec=run.spec, status="ok", scores=tuple(scores), curve=curve, provenance=made)


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--left", type=int, default=10)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(tasks, "pin", return_value="0" * 40),
        mock.patch.object(names, "pin", lambda model: model.model_copy(update={"revision": "0" * 40})),
        mock.patch.object(planning, "choose_dtype", return_value="bfloat16"),
    ):
        found = measure(ResultStore(Path(folder)), options.runs, options.left)
        print(json.dumps(found | provenance("python benchmarks/sweep_overhead.py").model_dump(), indent=1))
    return 0


def measure(store: ResultStore, runs: int, left: int) -> dict[str, float]:
    """Seconds and bytes of a start with most runs cached."""
    request = Request(("llama3-8b",), ("lora", "pissa"), TASKS[:1], TASKS, seeds=tuple(range(runs // 2)))
    before_it = get_context("fork").Process(target=prepare, args=(request, store, left))  # whose memory does not count
    before_it.start()
    before_it.join()
    reset_peak_memory()
    before, start, cpu = peak_memory(), time.perf_counter(), time.process_time()
    planned = plan(request, store)
    at_plan = time.perf_counter()
    assert sum(run.state != "cached" for run in planned) == left
    executor = Taken()
    sweep(planned, store, executor=executor)
    assert executor.first is not None
    return {
        "runs": len(planned),
        "seconds_plan": at_plan - start,
        "seconds_to_first_job": executor.first[0] - start,
        "of_the_processor": executor.first[1] - cpu,
        "memory_before_MB": before / 1e6,
        "memory_at_first_job_MB": executor.first[2] / 1e6,
        "seconds_whole": time.perf_counter() - start,
        "memory_at_end_MB": peak_memory() / 1e6,
    }


def prepare(request: Request, store: ResultStore, left: int) -> None:
    """Stores the results of all runs but some, and the index of results, which a sweep keeps up as it goes."""
    for run in plan(request, store)[:-left]:
        store.write(result_of(run))
    plan(request, store)


if __name__ == "__main__":
    sys.exit(main())
