"""The executor of a Ray cluster: an actor for each place on its nodes, which has a worker process beside it.

The sweep hands out the runs itself, and the folder of results is one that all nodes see. A node that is lost costs nothing but
time: its runs go back to the line, and are done elsewhere from their last checkpoint.
"""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from hubinit.errors import HubinitError, first_line
from hubinit.runs.executors.crew import Crew, Member, dismiss
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.spec import Places, Slot
from hubinit.runs.executors.together import WorkerGroup
from hubinit.runs.job import EVENT, LAST, Busy, Died, Event, Job, Progress

LOSSES = 3  # workers that may be lost in the middle of one run; after that it fails
PATIENCE = 60  # seconds for a cluster to answer


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
        import ray  # noqa: F401
    except ImportError:
        raise HubinitError('--executor ray needs Ray: pip install "hubinit[ray]"') from None
    where = "on this machine" if address == "auto" else f"at {address}"
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself knocks for two minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        join_cluster(address)
    except Exception as error:  # of many kinds: nobody there, another version of Ray or Python, a name that is unknown
        hint = "start one with `ray start --head`, or run hubinit on one of its nodes"
        raise HubinitError(f"No Ray cluster {where} ({first_line(error)}); {hint}.") from error


def join_cluster(address: str) -> None:
    """Calls `ray.init`, which tries for ever where a cluster was and is no more.

    Raises:
        TimeoutError: nobody answers.
        Exception: of many kinds; see `connect`.
    """
    import ray

    ends: SimpleQueue[Exception | None] = SimpleQueue()

    def join() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            ends.put(None)
        except Exception as error:  # for the thread that waits
            ends.put(error)

    Thread(target=join, daemon=True).start()
    try:
        end = ends.get(timeout=PATIENCE)
    except Empty:
        raise TimeoutError(f"nobody answers for {PATIENCE} seconds") from None
    if end is not None:
        raise end


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
