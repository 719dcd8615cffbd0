"""What can do the runs of a sweep, by name."""

from collections.abc import Callable

from hubinit.errors import HubinitError
from hubinit.runs.executors.local import local_executor
from hubinit.runs.executors.ray import ray_executor
from hubinit.runs.executors.slurm import slurm_executor
from hubinit.runs.executors.spec import Executor, Places

EXECUTORS: dict[str, Callable[[Places], Executor]] = {
    "local": local_executor,
    "ray": ray_executor,
    "slurm": slurm_executor,
}


def make_executor(places: Places) -> Executor:
    """The executor of these places.

    Raises:
        HubinitError: there is none of this name, or it cannot work here.
    """
    if places.executor not in EXECUTORS:
        raise HubinitError(f"--executor is one of {', '.join(EXECUTORS)}, not '{places.executor}'.")
    return EXECUTORS[places.executor](places)
