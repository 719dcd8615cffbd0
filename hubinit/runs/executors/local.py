"""The executor of this machine: worker processes, or groups of them."""

from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.together import WorkerGroup


def local_executor(processes: int = 1) -> SlotExecutor:
    """What does runs on this machine, each in so many processes."""
    return SlotExecutor([WorkerProcess() if processes == 1 else WorkerGroup(processes)])
