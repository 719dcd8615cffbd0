"""The executor of this machine: one worker process for each device, several that share one, or groups that train together."""

import os
from collections.abc import Sequence

import torch

from hubinit.errors import HubinitError
from hubinit.runs.executors.process import WORKER, WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.spec import HERE, Places, Slot
from hubinit.runs.executors.together import WorkerGroup, see_gpu


def local_executor(places: Places = HERE, command: Sequence[str] = WORKER) -> SlotExecutor:
    """What does runs on this machine, with workers that are started by a command.

    Raises:
        HubinitError: more is asked for than the GPUs that can be seen here have room for.
    """
    gpus = torch.cuda.device_count()
    silence = 60 * places.hang_after or None
    if places.processes > 1:
        return SlotExecutor(groups(places, command, gpus, silence))
    workers = places.workers or places.per_device * max(1, gpus)
    if gpus and workers > places.per_device * gpus:
        share = -(-workers // gpus)
        raise HubinitError(
            f"{workers} workers want more GPUs than the {gpus} here; add --workers-per-device {share} to let them share."
        )
    return SlotExecutor([worker(command, number, workers, gpus, silence) for number in range(workers)])


def groups(places: Places, command: Sequence[str], gpus: int, silence: float | None) -> list[Slot]:
    """Groups of processes, each with GPUs of its own."""
    size = places.processes
    count = places.workers or max(1, gpus // size)
    if gpus and count * size > gpus:
        raise HubinitError(f"{count} workers of {size} processes want {count * size} GPUs, and {gpus} are here.")
    return [WorkerGroup(size, command, fsdp=places.fsdp, first=place * size, silence=silence) for place in range(count)]


def worker(command: Sequence[str], number: int, workers: int, gpus: int, silence: float | None) -> WorkerProcess:
    """One of several workers: on its GPU, and with its share of the processor's cores."""
    environment = see_gpu(number % gpus) if gpus else {}
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // workers))
    place = f"GPU {number % gpus}" if gpus else "the processor"
    name = place if workers <= max(1, gpus) else f"{place}, worker {number + 1}"
    return WorkerProcess(command, environment=environment, name=name, silence=silence)
