"""The whole arrow for many runs: plan, execute what is missing, publish what is finished, and say what happened."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.local import run_local
from hubinit.runs.job import Assignment, Job
from hubinit.runs.plan import PlannedRun

Event = dict[str, Any]


def jobs(planned: Sequence[PlannedRun], store: ResultStore, *, eval_batch_size: int, force: bool) -> list[Job]:
    """Groups the runs that are not cached by what has to be in memory; one job loads its base once."""
    todo = sorted((run for run in planned if run.state != "cached"), key=in_memory)
    return [
        Job(
            store=store.root,
            model=runs[0].spec.model,
            assignments=tuple(Assignment(spec=run.spec, evaluations=run.evaluations) for run in runs),
            eval_batch_size=eval_batch_size,
            command=command_line(),
            force=force,
        )
        for runs in (list(group) for _, group in groupby(todo, key=in_memory))
    ]


def in_memory(run: PlannedRun) -> tuple[str, str]:
    """Runs with the same value share a loaded base: one model, and for images one set of classes."""
    return run.spec.model.key, run.group if run.spec.model.kind == "vision" else ""


def sweep(
    planned: Sequence[PlannedRun],
    store: ResultStore,
    *,
    eval_batch_size: int = 16,
    force: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_result: Callable[[RunResult], None] = lambda result: None,
) -> list[RunResult]:
    """Does every run that is not cached and returns the results of all, in the order of the plan.

    Args:
        planned: from `plan`.
        store: where results, adapters, calibrations and logs lie.
        eval_batch_size: sequences per forward pass of the evaluation.
        force: do cached runs again.
        on_event: called with each event of a worker.
        on_result: called with each result as soon as it is stored, for publishing.
    """

    def relay(event: Event) -> None:
        if event["event"] == "finished":
            result = store.read(str(event["key"]))
            if result is not None:
                on_result(result)
        on_event(event)

    for job in jobs(planned, store, eval_batch_size=eval_batch_size, force=force):
        run_local(job, relay)
    results = [store.read(run.spec.key) for run in planned]
    return [result for result in results if result is not None]


def command_line() -> str:
    """The command that is running, to be stored and published: without secrets, and without this machine's folders."""
    from hubinit.remote import redact

    program = Path(sys.argv[0]).name
    arguments = ["hubinit" if program == "__main__.py" else program]
    arguments += ["=".join(map(_without_folder, argument.split("="))) for argument in sys.argv[1:]]  # also --out=FOLDER
    return re.sub(r"://[^/@\s]+@", "://", redact(shlex.join(arguments)))


def _without_folder(text: str) -> str:
    return Path(text).name if Path(text).is_absolute() else text
