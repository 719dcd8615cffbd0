"""Which floating-point type a model is loaded in. It changes the numbers, so a plan chooses once and every result says it."""

import time
from functools import cache
from typing import Literal

import torch

from hubinit.models.kinds import KINDS
from hubinit.specs import ModelSpec

Chosen = Literal["float32", "bfloat16"]


def choose_dtype(spec: ModelSpec, device: torch.device | None = None) -> Chosen:
    """What the specification says; where it leaves the choice: bfloat16 where this device computes it fast, else float32.

    Args:
        spec: the model. Some kinds are float32 unless the specification says otherwise.
        device: where it will be. Default: the GPU when there is one.
    """
    wanted = spec.dtype if spec.dtype != "auto" else KINDS[spec.kind].dtype
    if wanted != "auto":
        return wanted
    place = device or default_device()
    # Older GPUs (T4, V100) only emulate it.
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if place.type == "cuda" else bfloat16_is_fast()
    return "bfloat16" if fast else "float32"


def default_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def bfloat16_is_fast(size: int = 512, repeats: int = 5) -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones: measured once, the best of a few tries each.

    CPUs with bfloat16 instructions are two to four times faster, those without several times slower, so noise does not decide.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)  # (size, size)
        _ = matrix @ matrix  # warm-up
        tries = []
        for _ in range(repeats):
            start = time.perf_counter()
            _ = matrix @ matrix
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] < seconds[torch.float32]
