"""Many runs: hand what is missing to an executor, store what died without a result, and pass on what happens."""

import errno
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from hubinit.records import ResultStore, RunResult
from hubinit.remote import redact
from hubinit.runs.costs import provenance
from hubinit.runs.disk import full, is_full
from hubinit.runs.executors.local import local_executor
from hubinit.runs.executors.spec import Executor
from hubinit.runs.job import Busy, Died, Event, Finished, Job, find_done, in_memory
from hubinit.runs.lease import leased
from hubinit.runs.line import LOADS, Line, pass_of
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import StoredIndex
from hubinit.specs import Engine, RunSpec


def sweep(
    planned: Sequence[PlannedRun],
    store: ResultStore,
    *,
    eval_batch_size: int = 16,
    engine: Engine = "transformers",
    force: bool = False,
    retries: int = 0,
    diagnostics: bool = False,
    report_to: Sequence[str] = (),
    executor: Executor | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_result: Callable[[RunResult], None] = lambda result: None,
    on_stop: Callable[[], None] = lambda: None,
) -> list[RunResult]:
    """Does every run that is not cached and returns the results of all, in the order of the plan.

    Whatever goes wrong costs the run it happens in: it then has a stored result that says why. Any number of sweeps may work on
    one store: each run is done by one of them.

    Args:
        planned: from `plan`.
        store: where results, adapters, calibrations and logs lie.
        eval_batch_size: sequences per forward pass of the evaluation.
        engine: what answers the questions of free-text tasks.
        force: do cached runs again.
        retries: how often a run that failed is tried again, when all others are done. One that diverged is not.
        diagnostics: measure also what costs time, of the runs that are trained.
        report_to: trackers that follow each training.
        executor: what does them. Default: a worker process of this machine.
        on_event: called with each event of the executor.
        on_result: called with each result as soon as it is stored, for publishing.
        on_stop: called when Ctrl-C was pressed, before the workers are asked to end.

    Raises:
        HubinitError: the disk is full.
    """
    mend(planned, store)
    todo = jobs(planned, store, eval_batch_size=eval_batch_size, engine=engine, force=force)
    watched = {"diagnostics": diagnostics, "report_to": tuple(report_to)}
    left = {job.spec.key: job.model_copy(update=watched) for job in todo}
    deaths: Counter[str] = Counter()  # of workers while they loaded a base
    index = StoredIndex(store)

    def keep(result: RunResult) -> None:
        index.find(result.key)
        index.save(least=100)
        on_result(result)

    with closing(executor or local_executor()) as runner:
        try:
            for _ in range(1 + retries):
                failed = do_all(runner, Line(left.values(), deaths), left, store, on_event, keep)
                left = {key: left[key].model_copy(update={"before": made}) for key, made in failed.items()}
                if not left:
                    break
        except KeyboardInterrupt:
            on_stop()
            raise
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise full(store.root) from error
            raise
    index.save()
    results = [store.readable(run.spec.key) for run in planned]
    return [result for result in results if result is not None]


def do_all(
    runner: Executor,
    line: Line,
    left: Mapping[str, Job],
    store: ResultStore,
    on_event: Callable[[Event], None],
    on_result: Callable[[RunResult], None],
) -> dict[str, str]:
    """Does the jobs of a line, which are those of `left`, and passes on what happens.

    Returns:
        The runs that failed here and may do better with another try, and when their results were made.
    """
    failed: dict[str, str] = {}
    for event in follow(runner, line):
        if isinstance(event, Died):
            event = store_death(event, left[event.key], store)
        on_event(event)
        if isinstance(event, Finished) and (result := store.readable(event.key)) is not None:
            if event.status == "failed" and not event.elsewhere and line.deaths[result.spec.model.key] < LOADS:
                failed[event.key] = result.provenance.created
            on_result(result)
            if is_full(event.reason):
                raise full(store.root)
    return failed


def follow(runner: Executor, line: Line) -> Iterator[Event]:
    """What becomes of the jobs of a line, of those included that are not tried because their base kills workers."""
    yield from (_gave_up(job.spec) for job in line.leave())
    for event in runner.run(line):
        yield event
        yield from (_gave_up(job.spec) for job in line.leave())


def mend(planned: Sequence[PlannedRun], store: ResultStore) -> None:
    """Marks partial results `ok` that by now hold everything asked of them."""
    for run in planned:
        if run.state == "cached" and run.evaluations and run.stored is not None and run.stored.status == "partial":
            with leased(store.root, run.spec.key) as holder:
                result = store.readable(run.spec.key)
                if holder is None and result is not None and all(map(result.scored, run.evaluations)):
                    store.write(result.model_copy(update={"status": "ok", "reason": None}))


def jobs(
    planned: Sequence[PlannedRun],
    store: ResultStore,
    *,
    eval_batch_size: int,
    engine: Engine = "transformers",
    force: bool,
) -> list[Job]:
    """One job per run that is not cached; runs that share what is in memory follow each other."""
    todo = sorted((run for run in planned if run.state != "cached"), key=lambda run: in_memory(run.spec))
    command = command_line()
    together = peers(run.spec for run in todo)
    return [
        Job(
            store=store.root,
            spec=run.spec,
            evaluations=run.evaluations,
            peers=together.get(pass_of(run.spec), ()),
            eval_batch_size=eval_batch_size,
            engine=engine,
            command=command,
            force=force,
            before=made_at(run, store, force),
        )
        for run in todo
    ]


def made_at(run: PlannedRun, store: ResultStore, force: bool) -> str | None:
    """When the stored result of a run was made, which a forced plan has not looked at."""
    if not force:
        return run.stored.created if run.stored is not None else None
    stored = store.readable(run.spec.key)
    return stored.provenance.created if stored is not None else None


def peers(specs: Iterable[RunSpec]) -> dict[str, tuple[RunSpec, ...]]:
    """By `pass_of`: runs whose statistics come from one pass, one run for each way to calibrate."""
    found: dict[str, dict[tuple[str, str], RunSpec]] = {}
    for spec in specs:
        if spec.calibration is not None:
            found.setdefault(pass_of(spec), {}).setdefault((spec.method.key, spec.calibration.key), spec)
    return {shared: tuple(ways.values()) for shared, ways in found.items()}


def command_line() -> str:
    """The command that is running, to be stored and published: without secrets, and without this machine's folders."""
    program = Path(sys.argv[0]).name
    arguments = ["hubinit" if program == "__main__.py" else program]
    arguments += ["=".join(map(_without_folder, argument.split("="))) for argument in sys.argv[1:]]  # also --out=FOLDER
    return redact(re.sub(r"://[^/@\s]+@", "://", shlex.join(arguments)))


def _without_folder(text: str) -> str:
    return Path(text).name if Path(text).is_absolute() else text


def _gave_up(spec: RunSpec) -> Died:
    reason = f"{LOADS} workers died while they loaded {spec.model.id}; the logs of its first runs say more"
    return Died(key=spec.key, reason=reason, loading=True)


def store_death(event: Died, job: Job, store: ResultStore) -> Finished | Busy:
    """The result of a run that died, which says how; scores that it had before stay.

    Its result may be there all the same: the worker died right after it, or somebody else has done the run, or does it now.
    """
    with leased(store.root, event.key) as holder:
        if holder is not None:
            return Busy(key=event.key, holder=str(holder))
        if (done := find_done(job)) is not None and done.status != "failed":  # whose reason this death may explain
            return done
        failed = RunResult(
            key=event.key, spec=job.spec, status="failed", reason=event.reason, provenance=provenance(job.command)
        )
        stored = store.write(failed)
        return Finished(key=event.key, status=stored.status, reason=stored.reason)
