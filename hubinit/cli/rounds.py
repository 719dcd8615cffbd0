"""The rounds of a benchmark: sweeps that share an executor, a display each, and what is published of them."""

from collections.abc import Callable, Sequence
from typing import Any

from hubinit.cli.console import errors, warn
from hubinit.cli.display import SweepDisplay
from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.lent import Lent
from hubinit.runs.executors.spec import Executor
from hubinit.runs.job import Event
from hubinit.runs.plan import PlannedRun
from hubinit.runs.progress import Recorder
from hubinit.runs.sweep import sweep


class Rounds:
    """Does one round after the other in the same workers."""

    def __init__(
        self,
        store: ResultStore,
        executor: Executor,
        recorder: Recorder,
        *,
        force: bool,
        on_scored: Callable[[RunResult], None] | None,
        groups: dict[str, str],
        **settings: Any,
    ) -> None:
        """Prepares them.

        Args:
            store: of results.
            executor: what does the runs.
            recorder: writes down how far they are.
            force: do each run again once, whatever is stored.
            on_scored: called with each result that is done and was to be scored, for publishing.
            groups: what each run trains on, by key; what a later round plans is added.
            settings: further arguments of `sweep`.
        """
        self.store, self.executor, self.recorder, self.force = store, executor, recorder, force
        self.on_scored, self.groups, self.settings = on_scored, groups, settings
        self.cached: set[str] = set()  # runs that were finished before
        self.done: set[str] = set()

    def __call__(self, planned: Sequence[PlannedRun], title: str = "") -> list[RunResult]:
        """Does a round and returns its results; `title` says in words what it is."""
        if title:
            warn(title)
        self.groups.update({run.spec.key: run.group for run in planned})
        self.cached |= {run.spec.key for run in planned if run.state == "cached"} - self.done
        scored = {run.spec.key for run in planned if run.evaluations}

        def tell(result: RunResult) -> None:
            if self.on_scored is not None and result.key in scored:
                self.on_scored(result)

        again = [run for run in planned if self.force and run.spec.key not in self.done]
        others = [run for run in planned if run not in again]
        results: list[RunResult] = []
        for runs, force in ((again, True), (others, False)):
            if runs:
                settings = self.settings | {"force": force, "executor": Lent(self.executor), "on_result": tell}
                results += watched_sweep(runs, self.store, self.recorder, **settings)
        self.done |= {run.spec.key for run in planned}
        return results

    def close(self) -> None:
        """Ends the workers."""
        self.executor.close()


def watched_sweep(
    planned: Sequence[PlannedRun], store: ResultStore, recorder: Recorder, **settings: Any
) -> list[RunResult]:
    """A sweep (see `hubinit.runs.sweep`) that is shown while it goes on, and written down for `hubinit status`."""
    recorder.add(planned)
    with SweepDisplay(recorder.tally, errors) as display:

        def tell(event: Event) -> None:
            recorder(event)
            display(event)

        return sweep(planned, store, on_event=tell, **settings)
