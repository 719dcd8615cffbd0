"""The workers of a Ray cluster: an actor for each, which is asked for, lent to jobs, and lost."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import Any
from uuid import uuid4

from huggingface_hub import get_token

from hubinit.errors import HubinitError
from hubinit.runs.executors.spec import Slot
from hubinit.runs.job import Job, in_memory

POLL = 0.2  # seconds between two looks at whether a worker is free
CARRIED = ("HF_", "HUBINIT_", "WANDB_", "TRACKIO_", "PYTHONPATH")  # what of this process's environment workers need


class Host:
    """The actor: what does jobs on a node of the cluster."""

    def __init__(self, make: Callable[[], Slot], environment: dict[str, str], folder: Path) -> None:
        """Prepares it, with the environment and, where it exists here, the folder of the process that asked for it."""
        os.environ |= environment
        with suppress(OSError):
            os.chdir(folder)
        self.slot = make()

    def greet(self, mark: Path) -> tuple[str, bool]:
        """The node's name, and whether it sees a file of the folder of results."""
        return socket.gethostname(), mark.exists()

    def do(self, order: str) -> Iterator[str]:
        """Does a job, and passes on the events."""
        for event in self.slot.do(Job.model_validate_json(order)):
            yield event.model_dump_json()

    def stop(self) -> None:
        """Asks what runs to end, with a checkpoint."""
        self.slot.stop()


@dataclass
class Member:
    """A worker of the cluster, where it is, and what it has in memory."""

    actor: Any
    node: str
    base: tuple[str, str] | None = None


class Crew:
    """The workers of a cluster. A job borrows one, and rather one that has its base in memory."""

    def __init__(self, make: Callable[[], Slot], need: dict[str, float], size: int) -> None:
        self.make, self.need, self.size = make, need, size
        self.lock, self.closed = Lock(), Flag()
        self.idle: list[Member] = []
        self.asked: dict[Any, Any] = {}  # actors that wait for room on a node, by what they are to answer
        self.lent = self.wanting = 0
        self.losses: Counter[str] = Counter()  # of workers, by the run that they were in
        self.mark: Path | None = None  # a file by which nodes are known to see the folder of results
        self.complaint = ""  # why there are fewer workers than there might be

    def borrow(self, job: Job) -> Member | None:
        """A worker for a job, when one is free; None when all is to end.

        Raises:
            HubinitError: no worker can start, or sees the folder of results.
        """
        base = in_memory(job.spec)
        with self.lock:
            self.wanting += 1
        try:
            while not self.closed.is_set():
                with self.lock:
                    if self.idle:
                        member = min(self.idle, key=lambda one: (one.base != base, one.base is not None))
                        self.idle.remove(member)
                        self.lent += 1
                        return member
                    self._ask(job.store)
                self._welcome(job.store)
            return None
        finally:
            with self.lock:
                self.wanting -= 1

    def _ask(self, store: Path) -> None:
        """Asks for as many workers as jobs wait for, up to the size of the crew."""
        import ray

        if not self.size:
            raise HubinitError(self.complaint)
        if self.mark is None:
            store.mkdir(parents=True, exist_ok=True)
            self.mark = store.absolute() / f".seen-{uuid4().hex}"
            self.mark.touch()
        environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        if token := get_token():
            environment["HF_TOKEN"] = token
        host = ray.remote(max_concurrency=2, scheduling_strategy="SPREAD", **self.need)(
            Host
        )  # it is stopped while it works
        while len(self.asked) < min(self.wanting, self.size - self.lent):
            actor = host.remote(self.make, environment, Path.cwd())
            self.asked[actor.greet.remote(self.mark)] = actor

    def _welcome(self, store: Path) -> None:
        """Takes in the workers that have found room, when some have."""
        import ray

        with self.lock:
            asked = list(self.asked)
        if not asked:  # all are at work
            time.sleep(POLL)
            return
        for answer in ray.wait(asked, timeout=POLL)[0]:
            with self.lock:
                actor = self.asked.pop(answer, None)
            if actor is None:  # another slot was faster
                continue
            try:
                node, sees = ray.get(answer)
            except ray.exceptions.RayActorError as error:
                if "creation task" in str(error):  # else its node was lost meanwhile, and another worker is asked for
                    said = str(error).strip().splitlines()[-1].strip().rstrip(".")
                    self._go_without(
                        f"A worker on the Ray cluster cannot start: {said}; is hubinit installed on each node?"
                    )
                continue
            if sees:
                with self.lock:
                    self.idle.append(Member(actor, node))
            else:
                dismiss(actor)
                self._go_without(
                    f"{node} does not see {store.resolve()} of this machine; give --out a folder that all nodes share."
                )

    def _go_without(self, reason: str) -> None:
        """Does with one worker less."""
        with self.lock:
            self.size -= 1
            self.complaint = reason

    def give_back(self, member: Member, job: Job) -> None:
        """Takes back a worker that has done a job."""
        member.base = in_memory(job.spec)
        with self.lock:
            self.lent -= 1
            self.idle.append(member)

    def lose(self, member: Member, key: str) -> int:
        """Notes that a worker is gone, and how many are by now that were in this run."""
        dismiss(member.actor)
        with self.lock:
            self.lent -= 1
            self.losses[key] += 1
            return self.losses[key]

    def close(self) -> None:
        """Dismisses all workers."""
        for actor in [*(member.actor for member in self.idle), *self.asked.values()]:
            dismiss(actor)
        if self.mark is not None:
            self.mark.unlink(missing_ok=True)


def dismiss(actor: Any) -> None:
    """Ends an actor at once; its worker process notices, and ends with a checkpoint."""
    import ray

    with suppress(Exception):  # it, or the cluster, is gone
        ray.kill(actor)
