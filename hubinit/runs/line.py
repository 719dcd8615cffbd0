"""The jobs that wait, handed out so that little is loaded and calibrated twice."""

import time
from collections import Counter
from collections.abc import Iterable
from threading import Lock

from hubinit.models.kinds import head_seed
from hubinit.runs.job import Busy, Died, Event, Job, in_memory
from hubinit.runs.lease import holder_of
from hubinit.specs import MethodSpec, RunSpec

LOADS = 2  # workers that may die while they load one base; after that its other runs fail without another try
POLL = 1.0  # seconds between two looks at what somebody else does


class Line:
    """Jobs that wait for a free place. Any thread may take one."""

    def __init__(self, jobs: Iterable[Job], deaths: Counter[str] | None = None) -> None:
        """Lines them up.

        Args:
            jobs: in the order in which they are to be done, where nothing else decides.
            deaths: workers that died while they loaded a base, by the base's key; counted on here.
        """
        self.deaths: Counter[str] = Counter() if deaths is None else deaths
        self.waiting: dict[tuple[str, str], dict[str, Job]] = {}  # by what they have in memory, then by key
        self.passes: dict[str, str] = {}  # of those that calibrate
        self.elsewhere: dict[str, Job] = {}  # that somebody else did when they were asked for
        for job in jobs:
            key = job.spec.key
            self.waiting.setdefault(in_memory(job.spec), {})[key] = job
            if job.spec.calibration is not None:
                self.passes[key] = pass_of(job.spec)
        self.at_work: Counter[tuple[str, str]] = Counter()
        self.calibrating: Counter[str] = Counter()
        self.given_up: list[Job] = []
        self.lock = Lock()

    def __len__(self) -> int:
        with self.lock:
            return sum(map(len, self.waiting.values()))

    def take(self, after: Job | None = None, *, wait: bool = True) -> Job | None:
        """The next job for a place that has just done `after`; None when none is left.

        A place stays with the base that it has in memory, else takes the one that fewest are at; among its jobs the first one
        whose statistics nobody is computing just now. Where all that is left is done by somebody else (a sweep that shares the
        folder), it waits until one of these is free again or finished, or is stopped; without `wait` it returns None.
        """
        while True:
            with self.lock:
                if (job := self._choose(in_memory(after.spec) if after is not None else None)) is not None:
                    return job
                elsewhere = list(self.elsewhere.values())
            if not elsewhere or not wait:
                return None
            free = [job for job in elsewhere if holder_of(job.store, job.spec.key) is None]
            with self.lock:
                for job in free:
                    if self.elsewhere.pop(job.spec.key, None) is not None:
                        self.waiting.setdefault(in_memory(job.spec), {})[job.spec.key] = job
            if not free:
                time.sleep(POLL)

    def _choose(self, held: tuple[str, str] | None) -> Job | None:
        groups = [group for group, jobs in self.waiting.items() if jobs]
        if not groups:
            return None
        group = held if held in groups else min(groups, key=lambda group: self.at_work[group])
        assert group is not None
        jobs = self.waiting[group]
        key = next((key for key in jobs if not self.calibrating[self.passes.get(key, "")]), next(iter(jobs)))
        self.at_work[group] += 1
        if key in self.passes:
            self.calibrating[self.passes[key]] += 1
        return jobs.pop(key)

    def end(self, job: Job, event: Event) -> None:
        """To be called with the last event of a job that was taken. A base that killed `LOADS` workers is given up."""
        with self.lock:
            group, base = in_memory(job.spec), job.spec.model.key
            self.at_work[group] -= 1
            if event.key in self.passes:
                self.calibrating[self.passes[event.key]] -= 1
            if isinstance(event, Busy):
                self.elsewhere[event.key] = job
            if isinstance(event, Died) and event.loading:
                self.deaths[base] += 1
                self._give_up()

    def _give_up(self) -> None:
        """Takes out the jobs of bases that killed workers."""
        for (base, _), jobs in self.waiting.items():
            if self.deaths[base] >= LOADS:
                self.given_up += jobs.values()
                jobs.clear()

    def leave(self) -> list[Job]:
        """The jobs whose base was given up, since the last call."""
        with self.lock:
            self._give_up()
            given_up, self.given_up = self.given_up, []
            return given_up

    def stop(self) -> None:
        """Hands out no more."""
        with self.lock:
            self.waiting.clear()
            self.elsewhere.clear()


def pass_of(spec: RunSpec) -> str:
    """Names the calibration pass that a run takes part in: everything but the method and the number of examples."""
    if spec.calibration is None:
        return ""
    return RunSpec(
        model=spec.model,
        method=MethodSpec(name="any"),
        rank=0,
        alpha=0,
        target_modules=spec.target_modules,
        data=spec.data,
        seed=head_seed(spec) or 0,
        calibration=spec.calibration.model_copy(update={"samples": 1}),
    ).key
