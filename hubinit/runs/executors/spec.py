"""What an executor is: what takes jobs from a line, as many at once as it has room for, and tells what becomes of them."""

from collections.abc import Iterator
from typing import Protocol

from hubinit.runs.job import Event, Job
from hubinit.runs.line import Line


class Executor(Protocol):
    """Does jobs. What it keeps between them (processes, loaded bases) is its own affair; `close` ends it."""

    def run(self, line: Line) -> Iterator[Event]:
        """Does the jobs of a line until none is left, and tells of all of them, each event with the key of its run.

        It calls `line.take` for each free place, and `line.end` with the last event of each job before that event is told.
        The last event of a job is `Finished`, once the result is stored; `Died`; or `Busy`.
        """

    def close(self) -> None:
        """Ends whatever still runs, at once."""


class Slot(Protocol):
    """A place for one job at a time; see `hubinit.runs.executors.slots`."""

    name: str  # where that is, for people

    def do(self, job: Job) -> Iterator[Event]:
        """Does a job. The last event is `Finished`, `Died` or `Busy`."""

    def stop(self) -> None:
        """Asks what runs to end and to keep what can be kept, from another thread than that of its job, which is told `Died`."""

    def kill(self) -> None:
        """As `stop`, but at once."""

    def close(self) -> None:
        """Ends whatever still runs, when no job is asked for any more."""
