"""Runs each job in several worker processes of this machine, which train it together."""

import os
import socket
from collections.abc import Iterator, Sequence
from threading import Event as Flag
from threading import Thread

from hubinit.runs.executors.local import WORKER, LocalExecutor
from hubinit.runs.executors.spec import Executor
from hubinit.runs.job import Died, Event, Finished, Job, Progress

LAST_WORDS = 5.0  # seconds for a rank's end to be noticed, when it may be why the first one failed


class TogetherExecutor:
    """One worker for each rank. The first one does the job; the others join it when it trains.

    A run that does not end well ends all workers, because each may wait for another.
    """

    def __init__(self, processes: int, command: Sequence[str] = WORKER, *, fsdp: bool = False) -> None:
        self.workers = [LocalExecutor(command, see_gpu(rank)) for rank in range(processes)]
        self.fsdp = fsdp
        self.threads: list[Thread] = []
        self.reason: str | None = None  # why a rank was lost
        self.lost = Flag()

    def submit(self, job: Job) -> Iterator[Event]:
        """Does a job in all workers; see `Executor`."""
        job = job.model_copy(update={"processes": len(self.workers), "port": free_port(), "fsdp": self.fsdp})
        self.reason = None
        self.lost.clear()
        for event in self.workers[0].submit(job):
            if isinstance(event, Progress) and event.stage == "train" and not self.threads:
                self._call(job)
            if isinstance(event, Died) or (isinstance(event, Finished) and event.status in {"failed", "diverged"}):
                if self.threads and not (isinstance(event, Finished) and event.status == "diverged"):
                    self.lost.wait(LAST_WORDS)
                reason = self.reason
                self.close()
                yield event if reason is None else Died(key=event.key, reason=reason, loading=False)
                return
            if isinstance(event, Finished):
                self._part()
            yield event

    def _call(self, job: Job) -> None:
        """Calls the other workers in."""
        self.threads = [
            Thread(target=self._follow, args=(job.model_copy(update={"rank": rank}),), daemon=True)
            for rank in range(1, job.processes)
        ]
        for thread in self.threads:
            thread.start()

    def _follow(self, job: Job) -> None:
        """Has one rank take its share; if it cannot, the first one, which would wait in vain, is ended."""
        *_, end = self.workers[job.rank].submit(job)
        if self.reason is None and (isinstance(end, Died) or (isinstance(end, Finished) and end.status == "failed")):
            log = f"logs/{job.spec.key}.rank{job.rank}.log"
            told = end.reason if isinstance(end, Finished) else f"{end.reason.split(' during')[0]}"
            self.reason = f"process {job.rank + 1} of {job.processes} failed: {told}; its output is in {log}"
            self.lost.set()
            self.workers[0].kill()

    def _part(self) -> None:
        """Waits until the other workers have said their last word on a job."""
        for thread in self.threads:
            thread.join()
        self.threads = []

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            worker.kill()
        self._part()
        for worker in self.workers:
            worker.close()


def local_executor(processes: int, fsdp: bool = False) -> Executor:
    """What does runs on this machine, each in so many processes."""
    return LocalExecutor() if processes == 1 else TogetherExecutor(processes, fsdp=fsdp)


def see_gpu(rank: int) -> dict[str, str]:
    """The environment in which a worker sees the GPU of its rank as the only one; without GPUs it changes nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[rank] if rank < len(visible) and visible[rank] else str(rank)}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
