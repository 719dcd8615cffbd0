"""Which floating-point type a model is loaded in. It changes the numbers, so a plan chooses once and every result says it."""

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


def bfloat16_is_fast() -> bool:
    """Whether this CPU has instructions for products in bfloat16 (AVX512-BF16, AMX, ARM's BF16).

    It is asked, not timed: keys hold the type, and a busy machine would answer one way today and another way tomorrow.
    """
    return any(there is True and "bf16" in name for name, there in torch.cpu.get_capabilities().items())
