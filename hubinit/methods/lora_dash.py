"""LoRA-Dash: starts as LoRA; after a warm-up, task-specific directions are trained too (Si et al., arXiv:2409.01035).

The directions are singular directions uᵢvᵢᵀ of W, those whose singular value the warmed-up update changes most in proportion.
From then on the layer computes `W + s·BA + Σ dᵢ uᵢvᵢᵀ`, where d starts at zero and is trained beside A and B. As plain LoRA
that is rank r + k.
"""

import torch
from pydantic import Field
from torch import Tensor

from hubinit.methods import lora
from hubinit.methods.spec import Method, MethodOptions


class LoraDashOptions(MethodOptions):
    """Options of LoRA-Dash."""

    warmup: int = Field(
        default=100,
        ge=1,
        description="optimiser steps before the directions are chosen, at most half of a run's. The released code waits for 100 "
        "forward passes, of which accumulation and recomputed activations make several per step",
    )
    directions: int = Field(default=8, ge=1, description="k, directions per layer; paper and released code 8")


def choose_directions(
    weight: Tensor, A: Tensor, B: Tensor, scaling: float, options: LoraDashOptions
) -> tuple[Tensor, Tensor]:
    """The k singular directions of W with the largest |Δσᵢ|/σᵢ, where `Δσᵢ = uᵢᵀ (s·BA) vᵢ`, as in the released code.

    Directions in which W is zero up to rounding are left out; there the released code divides by zero.

    Args:
        weight: (m, n).
        A: (r, n), after the warm-up.
        B: (m, r), after the warm-up.
        scaling: s.
        options: with k, of which min(m, n) can be had.

    Returns:
        U (m, k) and Vᵀ (k, n).
    """
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)  # (m, q), (q,), (q, n)
    change = scaling * ((U.T @ B.to(U)) * (Vh @ A.T.to(U))).sum(1)  # (q,)
    rounding = torch.finfo(S.dtype).eps * max(weight.shape) * S[0]
    rates = torch.where(rounding < S, change.abs() / S, 0)  # (q,)
    chosen = rates.topk(min(options.directions, len(S))).indices  # (k,)
    return U[:, chosen], Vh[chosen]


METHOD = Method(
    name="lora-dash",
    title="LoRA-Dash",
    source="Unleashing the Power of Task-Specific Directions in Parameter Efficient Fine-tuning, arXiv:2409.01035",
    start="keep",
    factors=lora.factors,
    options=LoraDashOptions,
    directions=choose_directions,
    version=2,  # 1 trained plain LoRA
)
