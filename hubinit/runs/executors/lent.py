"""An executor that outlives the sweep it is lent to."""

from collections.abc import Iterator

from hubinit.runs.executors.spec import Executor
from hubinit.runs.job import Event, Job


class Lent:
    """An executor that a sweep may close and that stays open, for the next round."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def submit(self, job: Job) -> Iterator[Event]:
        """Does a job; see `Executor`."""
        return self.executor.submit(job)

    def close(self) -> None:
        """Does nothing: whoever lent the executor closes it."""
