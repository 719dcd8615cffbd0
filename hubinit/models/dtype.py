"""Which floating-point type a model is loaded in: a measurement of this machine, made once, when the plan is made."""

import time
from functools import cache

import torch

from hubinit.specs import ModelSpec


def choose_dtype(spec: ModelSpec, device: torch.device) -> torch.dtype:
    """The floating-point type to load weights in.

    `auto` is bfloat16 wherever it is fast, else float32; always float32 for image models, whose new head is trained as it is.
    """
    if spec.dtype != "auto":
        return torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32
    if spec.kind == "vision":
        return torch.float32
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_is_fast()
    return torch.bfloat16 if fast else torch.float32


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
