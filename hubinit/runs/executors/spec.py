"""What an executor is: what takes jobs from a line, as many at once as it has room for, and tells what becomes of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hubinit.runs.job import Event, Job
from hubinit.runs.line import Line


@dataclass(frozen=True)
class Places:
    """Where runs are done.

    Attributes:
        workers: runs at once. None: as many as there is room for; on this machine `per_device` for each GPU or, without one, one.
        per_device: runs that may share a GPU.
        processes: that train each run together, one on each GPU.
        fsdp: the base is cut over them while they train.
        hang_after: minutes without an event after which a worker counts as hung; 0: never.
        executor: a key of `EXECUTORS`: what does them.
        cpus: processor cores that a cluster sets aside for each run.
        address: HOST:PORT of the Ray cluster that this machine is in; or `auto`.
        slurm: further options of sbatch, by name.
    """

    workers: int | None = None
    per_device: int = 1
    processes: int = 1
    fsdp: bool = False
    hang_after: float = 0.0
    executor: str = "local"
    cpus: int = 1
    address: str = "auto"
    slurm: Mapping[str, str] = field(default_factory=dict)


HERE = Places()


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
