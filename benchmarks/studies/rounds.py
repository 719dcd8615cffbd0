"""What studies of runs have in common: the order of their runs, and what is kept of a finished one."""

import shutil
import sys
from collections.abc import Sequence

from hubinit.records import ResultStore, RunResult
from hubinit.runs.job import Job
from hubinit.runs.plan import PlannedRun

WEIGHTS = ("adapter", "init", "checkpoints")  # of a run, in its folder


def rounds(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs by seed, then learning rate, then method, each in the order of the plan; the base comes first."""
    seeds = list(dict.fromkeys(run.spec.seed for run in planned))
    rates = list(dict.fromkeys(run.spec.learning_rate for run in planned))
    return sorted(
        planned,
        key=lambda run: (run.spec.recipe is not None, seeds.index(run.spec.seed), rates.index(run.spec.learning_rate)),
    )


def in_order(found: Sequence[Job], planned: Sequence[PlannedRun]) -> list[Job]:
    """The jobs in the order of the plan."""
    place = {run.spec.key: index for index, run in enumerate(planned)}
    return sorted(found, key=lambda job: place[job.spec.key])


def drop_weights(result: RunResult, store: ResultStore) -> None:
    """Deletes what a finished run needs no more."""
    if result.status == "ok":
        for name in WEIGHTS:
            shutil.rmtree(store.folder(result.key) / name, ignore_errors=True)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
