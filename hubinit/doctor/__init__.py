"""What is wrong with this machine for hubinit, before a run finds out: findings, each with what to do."""

from collections.abc import Callable, Iterator
from pathlib import Path

from hubinit.doctor.finding import Finding, State
from hubinit.doctor.hub import check_hub, check_token
from hubinit.doctor.libraries import check_libraries, check_python
from hubinit.doctor.machine import check_devices, check_disk, check_torch
from hubinit.doctor.programs import check_java, check_ray, check_sandbox, check_slurm
from hubinit.errors import first_line
from hubinit.remote import redact

__all__ = ["Finding", "State", "examine"]


def examine(out: Path) -> Iterator[Finding]:
    """Looks at everything, one thing after the other; nothing is changed.

    Args:
        out: folder of results.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": check_python,
        "libraries": check_libraries,
        "torch": check_torch,
        "devices": check_devices,
        "disk": lambda: check_disk(out),
        "Hub": check_hub,
        "token": check_token,
        "sandbox": check_sandbox,
        "Java": check_java,
        "Ray": check_ray,
        "Slurm": check_slurm,
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a machine can be broken in ways that nobody thought of; the other checks go on
            yield Finding(
                name, "fail", redact(f"{type(error).__name__}: {first_line(error)}"), "see to it, or report it"
            )
