"""An executor that outlives the sweep it is lent to."""

from collections.abc import Iterator

from hubinit.runs.executors.spec import Executor
from hubinit.runs.job import Event
from hubinit.runs.line import Line


class Lent:
    """An executor that a sweep may close and that stays open, for the next round."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self, line: Line) -> Iterator[Event]:
        """Does the jobs of a line; see `Executor`."""
        return self.executor.run(line)

    def close(self) -> None:
        """Does nothing: whoever lent the executor closes it."""
