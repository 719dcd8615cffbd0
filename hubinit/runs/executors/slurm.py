"""The executor of a Slurm cluster: an array of jobs, submitted by submitit, that share the runs of one folder.

Each task of the array works through all runs as one machine does, leaves out those that somebody else does (see
`hubinit.runs.lease`), and writes what happens to a file that the sweep reads. So a task may start late, reach its time limit and
be requeued: it goes on with what is left, from the last checkpoint. It also goes on when the sweep itself is lost.
"""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hubinit.errors import HubinitError
from hubinit.runs.executors.local import local_executor
from hubinit.runs.executors.process import WORKER
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.spec import Places
from hubinit.runs.job import EVENT, LAST, Busy, Died, Event, Finished, Job, Progress, Started, find_done
from hubinit.runs.lease import holder_of
from hubinit.runs.line import Line

TASKS = 16  # of an array at most, where --workers does not say
HOURS = 4  # time limit of a task, where --slurm does not say
TIMEOUTS = 100  # how often a task may reach its time limit and go on
NOTICE = 90  # seconds before its time limit at which a task is asked to end
POLL, LOOK = 1.0, 30.0  # seconds between two looks at what the tasks have written, and at the queue
# Before the time limit, Slurm sends USR2 to all processes of a task; the first one answers it, and workers are to live on.
UNDISTURBED = ("/bin/sh", "-c", 'trap "" USR2; exec "$0" "$@"', *WORKER)


def slurm_executor(places: Places) -> "SlurmExecutor":
    """What does runs on a Slurm cluster.

    Raises:
        HubinitError: submitit or Slurm is not here, or a time limit is not understood.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise HubinitError('--executor slurm needs submitit: pip install "hubinit[slurm]"') from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise HubinitError("--executor slurm needs sbatch and srun: run hubinit on a login node of the cluster.")
    return SlurmExecutor(places)


class SlurmExecutor:
    """An executor that submits an array for the jobs of a line; see `Executor`."""

    def __init__(self, places: Places, cluster: str = "slurm", command: Sequence[str] = UNDISTURBED) -> None:
        """Prepares it.

        Args:
            places: how many tasks, and what each does at once.
            cluster: what submitit submits to; `local`: processes of this machine.
            command: the worker that a task starts.
        """
        options = dict(places.slurm)
        self.parameters = {
            "name": "hubinit",
            "timeout_min": minutes(options.pop("time", f"{60 * HOURS}")),
            "cpus_per_task": places.cpus,
            "slurm_signal_delay_s": NOTICE,
            "slurm_srun_args": [f"--cpus-per-task={places.cpus}"],  # which srun does not take over from sbatch
            "slurm_additional_parameters": options,
        }
        self.places, self.cluster, self.command = places, cluster, command
        self.tasks: list[Any] = []  # of the last array
        self.looked = 0.0  # when the queue was last looked at

    def run(self, line: Line) -> Iterator[Event]:
        """Does the jobs of a line; see `Executor`."""
        while (first := line.take()) is not None:  # what somebody else was at may be left to do when he has ended
            jobs = {first.spec.key: first}
            while (job := line.take(wait=False)) is not None:
                jobs[job.spec.key] = job
            for event in self._share(jobs):
                if isinstance(event, LAST):
                    line.end(jobs[event.key], event)
                yield event

    def _share(self, jobs: dict[str, Job]) -> Iterator[Event]:
        """Submits an array for some jobs, and tells of each of them until its last event."""
        store = next(iter(jobs.values())).store.absolute()
        folder = store / "slurm" / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
        self._submit(folder, [job.model_copy(update={"store": store}) for job in jobs.values()])
        number = self.tasks[0].job_id.split("_")[0]
        said = f"{len(jobs)} runs are queued as Slurm job {number}, whose logs are in slurm/{folder.name}"
        yield Progress(key=next(iter(jobs)), stage=said)
        left, elsewhere, read = dict(jobs), dict[str, Event](), dict[Path, int]()
        at_work = True
        while left and at_work:
            time.sleep(POLL)
            at_work = self._at_work()  # before the last events are read
            for event in read_events(folder, read):
                if event.key not in left or isinstance(event, Busy):
                    continue
                if isinstance(event, Finished) and event.elsewhere:  # perhaps in another task, whose own word counts
                    elsewhere[event.key] = event
                    continue
                if isinstance(event, LAST):
                    del left[event.key]
                yield event
        for key, job in left.items():
            yield elsewhere.get(key) or find_done(job) or self._lost(job, folder.name)

    def _submit(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Submits an array whose tasks share some jobs.

        Raises:
            HubinitError: Slurm does not take it.
        """
        import submitit

        folder.mkdir(parents=True)
        (folder / "jobs.jsonl").write_text("".join(job.model_dump_json() + "\n" for job in jobs))
        executor = submitit.AutoExecutor(folder, cluster=self.cluster, slurm_max_num_timeout=TIMEOUTS)
        executor.update_parameters(**self.parameters)
        count = min(len(jobs), self.places.workers or TASKS)
        places = replace(self.places, workers=None)
        try:
            self.tasks = executor.submit_array([Task(folder, n, count, places, self.command) for n in range(count)])
        except submitit.core.utils.FailedJobError as error:  # sbatch's own words
            said = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ").rstrip(".")
            raise HubinitError(f"Slurm does not take the job: {said}.") from error
        self.looked = time.monotonic()

    def _at_work(self) -> bool:
        """Whether a task runs or is in the queue."""
        if self.cluster == "local":
            return not all(task.done() for task in self.tasks)
        if all(task.paths.result_pickle.exists() for task in self.tasks):
            return False
        if time.monotonic() - self.looked < LOOK:
            return True
        self.looked = time.monotonic()
        number = self.tasks[0].job_id.split("_")[0]
        queue = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True)  # noqa: S603, S607
        unknown = "Invalid job id" in queue.stderr  # ended a while ago; any other failure says nothing of the job
        return bool(queue.stdout.strip()) if not queue.returncode else not unknown

    def _lost(self, job: Job, folder: str) -> Event:
        """What became of a run that no task has ended: somebody else is at it, or the task that did it is gone."""
        key = job.spec.key
        if (holder := holder_of(job.store, key)) is not None:
            return Busy(key=key, holder=str(holder))
        for task in self.tasks:
            if not task.paths.result_pickle.exists():
                reason = f"Slurm job {task.job_id} was killed before this run was done; its logs are in slurm/{folder}"
                return Died(key=key, reason=reason, loading=False)
            if (error := task.exception()) is not None:
                said = str(error).split("-" * 22)[1].strip().splitlines()[-1].rstrip(".")
                reason = f"Slurm job {task.job_id} failed: {said}; its logs are in slurm/{folder}"
                return Died(key=key, reason=reason, loading=False)
        return Busy(key=key, holder="somebody who is gone")

    def close(self) -> None:
        """Cancels what still runs or waits; trainings keep a checkpoint."""
        for task in self.tasks:
            if not task.paths.result_pickle.exists():
                task.cancel(check=False)
        self.tasks = []


class Share(Line):
    """The jobs of a sweep as one of its tasks takes them: what others are at, it leaves to them."""

    def take(self, after: Job | None = None, *, wait: bool = False) -> Job | None:
        """The next job, without waiting for others; see `Line`."""
        return super().take(after, wait=False)


@dataclass
class Task:
    """One task of an array; submitit calls it on a node, and asks it to end with `checkpoint` when its time is over.

    Attributes:
        folder: of the array: its jobs, and what its tasks tell.
        number: of this task.
        count: of tasks.
        places: what it does at once.
        command: the worker that it starts.
        executor: what does it, while it is at work.
    """

    folder: Path
    number: int
    count: int
    places: Places
    command: Sequence[str]
    executor: SlotExecutor | None = None

    def __call__(self) -> None:
        """Works through the jobs, from its own place on, so that tasks begin with different bases."""
        jobs = [Job.model_validate_json(line) for line in (self.folder / "jobs.jsonl").read_text().splitlines()]
        first = self.number * len(jobs) // self.count
        signal.signal(signal.SIGTERM, lambda number, frame: self._end())
        with closing(local_executor(self.places, self.command)) as self.executor:
            self.executor.grace = NOTICE - 15.0
            for event in self.executor.run(Share(jobs[first:] + jobs[:first])):
                self._tell(event)
        self.executor = None

    def checkpoint(self) -> Any:
        """Ends its run with a checkpoint, and is to be called again; submitit asks for it."""
        import submitit

        self._stop()
        return submitit.helpers.DelayedSubmission(replace(self, executor=None))

    def _end(self) -> None:
        """Ends its run with a checkpoint, and waits for the end: a task that went on would tell that its run died."""
        self._stop()
        time.sleep(600)

    def _stop(self) -> None:
        if self.executor is not None:
            self.executor.close()

    def _tell(self, event: Event) -> None:
        """Writes an event. The file is closed each time, for that is when other machines of a network file system see it."""
        if isinstance(event, Started):
            event = event.model_copy(update={"place": f"{socket.gethostname()}, {event.place}"})
        with (self.folder / f"{self.number}.events").open("a") as events:
            events.write(event.model_dump_json() + "\n")


def read_events(folder: Path, read: dict[Path, int]) -> Iterator[Event]:
    """The events that tasks have written since the last call; `read` says up to which byte of which file."""
    for path in sorted(folder.glob("*.events")):
        with path.open("rb") as file:
            file.seek(read.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                read[path] = read.get(path, 0) + len(line)
                yield EVENT.validate_json(line)


def minutes(limit: str) -> int:
    """A time limit as sbatch writes it (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S), or such as 90m, 8h or 2d, in minutes.

    Raises:
        HubinitError: it is none of these.
    """
    if found := re.fullmatch(r"(\d+)([mhd])", limit):
        return int(found[1]) * {"m": 1, "h": 60, "d": 24 * 60}[found[2]]
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        raise HubinitError(f"--slurm time={limit} is not a time limit; write 8h, or 08:00:00.")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days or len(parts) == 3:
        hours, more, seconds = (*parts, 0, 0)[:3]
    else:
        hours, (more, seconds) = 0, (*parts, 0)[:2]
    return max(1, 60 * (24 * int(days or 0) + hours) + more + -(-seconds // 60))
