"""The executor of a Ray cluster: an actor for each place on its nodes, which has a worker process beside it.

The sweep hands out the runs itself, and the folder of results is one that all nodes see. A node that is lost costs nothing but
time: its runs go back to the line, and are done elsewhere from their last checkpoint.
"""

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import Any
from uuid import uuid4

from huggingface_hub import get_token

from hubinit.errors import HubinitError, first_line
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.spec import Places, Slot
from hubinit.runs.executors.together import WorkerGroup
from hubinit.runs.job import EVENT, LAST, Busy, Died, Event, Job, Progress, in_memory

LOSSES = 3  # workers that may be lost in the middle of one run; after that it fails
POLL = 0.2  # seconds between two looks at whether a worker is free
CARRIED = ("HF_", "HUBINIT_", "WANDB_", "TRACKIO_", "PYTHONPATH")  # what of this process's environment workers need


def ray_executor(places: Places) -> "RayExecutor":
    """What does runs on a Ray cluster.

    Raises:
        HubinitError: Ray is not installed, there is no cluster, or none of its nodes has room for a run.
    """
    silence = 60 * places.hang_after or None
    if places.processes > 1:
        make: Callable[[], Slot] = partial(WorkerGroup, places.processes, fsdp=places.fsdp, silence=silence)
    else:
        make = partial(WorkerProcess, silence=silence)
    return RayExecutor(places, make)


class RayExecutor(SlotExecutor):
    """An executor with a slot for each worker of a cluster; see `Executor`."""

    def __init__(self, places: Places, make: Callable[[], Slot]) -> None:
        """Connects to the cluster.

        Args:
            places: how many workers, with how many cores and GPUs each.
            make: what does the jobs on a node, made there.
        """
        connect(places.address)
        need, room = size_up(places)
        self.crew = Crew(make, need, places.workers or room)
        self.aside = ExitStack()
        self.aside.enter_context(redirect_stdout(sys.stderr))  # on which Ray prints what its nodes complain of
        super().__init__([RaySlot(self.crew, f"Ray, place {number + 1}") for number in range(self.crew.size)])

    def close(self) -> None:
        """Ends all workers and leaves the cluster."""
        import ray

        self.crew.closed.set()
        super().close()
        self.crew.close()
        ray.shutdown()
        self.aside.close()


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


class RaySlot:
    """A place for one job at a time on a cluster; see `Slot`."""

    def __init__(self, crew: Crew, name: str) -> None:
        self.crew, self.name = crew, name
        self.member: Member | None = None

    def do(self, job: Job) -> Iterator[Event]:
        """Does a job on whichever worker is free. When that is lost, the job is to be asked for again."""
        import ray

        key = job.spec.key
        if (member := self.crew.borrow(job)) is None:
            yield Died(key=key, reason="the sweep has ended", loading=False)
            return
        self.member = member
        complaint = self.crew.complaint and f" (not all places are used: {self.crew.complaint})"
        yield Progress(key=key, stage=f"on {member.node}{complaint}")
        order = job.model_copy(update={"store": job.store.absolute()}).model_dump_json()
        try:
            for answer in member.actor.do.options(num_returns="streaming").remote(order):
                event = EVENT.validate_json(ray.get(answer))
                if isinstance(event, LAST):
                    break
                yield event
            self.crew.give_back(member, job)
        except ray.exceptions.RayActorError:
            event = Busy(key=key, holder=f"a worker on {member.node} that was lost")
            if (losses := self.crew.lose(member, key)) >= LOSSES:
                event = Died(key=key, reason=f"{losses} workers were lost during this run", loading=False)
        finally:
            self.member = None
        yield event

    def stop(self) -> None:
        """Asks what runs to end; see `Slot`."""
        if (member := self.member) is not None:
            member.actor.stop.remote()

    def kill(self) -> None:
        """Ends what runs at once; see `Slot`."""
        if (member := self.member) is not None:
            dismiss(member.actor)

    def close(self) -> None:
        """Nothing is left: the crew dismisses the workers."""


def connect(address: str) -> None:
    """Joins a cluster.

    Raises:
        HubinitError: Ray is not installed, or nobody answers there.
    """
    try:
        import ray
    except ImportError:
        raise HubinitError('--executor ray needs Ray: pip install "hubinit[ray]"') from None
    where = "on this machine" if address == "auto" else f"at {address}"
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself knocks for two minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of many kinds: nobody there, another version of Ray or Python, a name that is unknown
        hint = "start one with `ray start --head`, or run hubinit on one of its nodes"
        raise HubinitError(f"No Ray cluster {where} ({first_line(error)}); {hint}.") from error


def size_up(places: Places) -> tuple[dict[str, float], int]:
    """What a worker needs of a node, and how many workers the nodes have room for.

    Raises:
        HubinitError: for none, and the cluster was not said to grow.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = (places.processes / places.per_device) if any(node.get("GPU") for node in nodes) else 0
    room = sum(
        int(min(node.get("CPU", 0) // places.cpus, node.get("GPU", 0) / gpus if gpus else float("inf")))
        for node in nodes
    )
    if not room and places.workers is None:
        wanted = f"{places.cpus} cores" + (f" and {gpus:g} GPUs" if gpus else "")
        raise HubinitError(f"No node of the Ray cluster has {wanted}, which each run wants; see --cpus-per-run.")
    return {"num_cpus": places.cpus, "num_gpus": gpus}, room


def dismiss(actor: Any) -> None:
    """Ends an actor at once; its worker process notices, and ends with a checkpoint."""
    import ray

    with suppress(Exception):  # it, or the cluster, is gone
        ray.kill(actor)
