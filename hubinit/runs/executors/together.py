"""A slot that does each job in several worker processes of this machine, which train it together."""

import os
import socket
from collections.abc import Iterator, Sequence
from threading import Event as Flag
from threading import Thread

from hubinit.runs.executors.process import WORKER, WorkerProcess
from hubinit.runs.job import Died, Event, Finished, Job, Progress

LAST_WORDS = 5.0  # seconds for a rank's end to be noticed, when it may be why the first one failed


class WorkerGroup:
    """One worker for each rank. The first one does the job; the others join it when it trains.

    A run that does not end well ends all workers, because each may wait for another.
    """

    def __init__(
        self,
        processes: int,
        command: Sequence[str] = WORKER,
        *,
        fsdp: bool = False,
        first: int = 0,
        silence: float | None = None,
    ) -> None:
        """Prepares the workers.

        Args:
            processes: how many.
            command: what is started.
            fsdp: the base is cut over them while they train.
            first: the GPU of the first one; the others take those that follow.
            silence: of the first one, see `WorkerProcess`.
        """
        self.workers = [
            WorkerProcess(command, see_gpu(first + rank), silence=None if rank else silence)  # the others tell nothing
            for rank in range(processes)
        ]
        self.name, self.fsdp = f"{processes} processes", fsdp
        self.threads: list[Thread] = []
        self.reason: str | None = None  # why a rank was lost
        self.lost = Flag()

    def do(self, job: Job) -> Iterator[Event]:
        """Does a job in all workers; see `Slot`."""
        job = job.model_copy(update={"processes": len(self.workers), "port": free_port(), "fsdp": self.fsdp})
        self.reason = None
        self.lost.clear()
        for event in self.workers[0].do(job):
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
        *_, end = self.workers[job.rank].do(job)
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

    def stop(self) -> None:
        """Ends all workers at once: what they could keep, they would have to agree on; see `Slot`."""
        self.kill()

    def kill(self) -> None:
        """Ends all workers at once; see `Slot`."""
        for worker in self.workers:
            worker.kill()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            worker.kill()
        self._part()
        for worker in self.workers:
            worker.close()


def see_gpu(number: int) -> dict[str, str]:
    """The environment in which a worker sees one of the GPUs here as the only one; without GPUs it changes nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[number] if number < len(visible) and visible[number] else str(number)}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
