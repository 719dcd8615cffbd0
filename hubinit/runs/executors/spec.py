"""What an executor is: something that does one job at a time and tells what becomes of it."""

from collections.abc import Iterator
from typing import Protocol

from hubinit.runs.job import Event, Job


class Executor(Protocol):
    """Does jobs. What it keeps between them (a process, a loaded base) is its own affair; `close` ends it."""

    def submit(self, job: Job) -> Iterator[Event]:
        """Does a job. The last event is `Finished`, once the result is stored, or `Died`."""

    def close(self) -> None:
        """Ends whatever still runs."""
