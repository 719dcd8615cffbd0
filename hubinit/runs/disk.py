"""Room on the disk: noticed before a sweep, and when it ran out in the middle of one."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hubinit.errors import HubError, HubinitError
from hubinit.models.layers import target_layers
from hubinit.models.shapes import empty_model
from hubinit.specs import FULL, ModelSpec, RunSpec

SIGNS = ("no space left", "disk quota exceeded", "os error 28")  # how libraries say it
COPIES = 4  # of an adapter in the folder of a run: the start, the end, and a checkpoint with Adam's two moments


def check_room(specs: Iterable[RunSpec], folder: Path) -> None:
    """Checks that the weights which runs will write fit on the disk.

    Args:
        specs: of the runs to do.
        folder: the store.

    Raises:
        HubinitError: they do not.
    """
    needed, free = needed_bytes(specs), shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise HubinitError(
            f"The runs will write about {needed / 2**30:.1f} GiB to {folder}, and {free / 2**30:.1f} GiB are free there; "
            "make room, or choose another folder with --out."
        )


def needed_bytes(specs: Iterable[RunSpec]) -> int:
    """What the weights of runs take on the disk; runs of a model whose configuration cannot be had are not counted."""
    sizes: dict[tuple[ModelSpec, object], int] = {}
    total = 0
    for spec in specs:
        if spec.recipe is None or spec.method.name == "none":
            continue
        asked = (spec.model, None if spec.method.name == FULL else spec.target_modules)
        if asked not in sizes:
            sizes[asked] = 0
            with suppress(HubError):
                sizes[asked] = width(spec)
        total += sizes[asked] * (1 if spec.method.name == FULL else COPIES * spec.rank)
    return total


def width(spec: RunSpec) -> int:
    """Bytes of an adapter of rank 1 for a run, in float32; for `full`, of all weights in their own type."""
    model = empty_model(spec.model)
    if spec.method.name == FULL:
        return sum(weight.numel() for weight in model.parameters()) * (4 if spec.model.dtype == "float32" else 2)
    layers: Iterable[Any] = target_layers(model, spec.target_modules).values()
    return sum(4 * sum(layer.weight.shape) for layer in layers)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return folder if folder.exists() else existing(folder.absolute().parent)


def is_full(reason: str | None) -> bool:
    """Whether a run failed because nothing more could be written."""
    return any(sign in (reason or "").lower() for sign in SIGNS)


def full(folder: Path) -> HubinitError:
    """What to say then."""
    return HubinitError(
        f"Nothing more can be written to {folder}: the disk is full, or a quota is used up. Make room; what is finished is kept, "
        "and the same command goes on where this one stopped."
    )
