"""Orthogonal initialisation: A and B random, both non-zero, in complementary subspaces so that BA = 0.

BA is zero up to rounding, so the start needs no anchor: an adapter of rank r on the untouched base says it all.

Formula of https://datta0.github.io/posts/rethink-lora-init/, as PEFT's `init_lora_weights="orthogonal"` has it.
"""

import torch

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`A = Q_oddᵀ N₁ᵀ / 10`, `B = N₂ᵀ Q_even / 10` with a random orthogonal Q (r, r), whose even and odd rows are orthogonal.

    Returns:
        A (r, n) and B (m, r) with BA = 0 up to rounding.

    Raises:
        InitialisationError: the rank is odd.
    """
    (m, n), r = layer.weight.shape, layer.rank
    if r % 2:
        raise InitialisationError(
            f"Method 'orthogonal' splits the rank in halves, so module {layer.name} cannot have the odd rank {r}; "
            "choose an even one."
        )

    def normal(rows: int, columns: int) -> torch.Tensor:
        like = layer.weight
        return torch.randn(rows, columns, dtype=like.dtype, device=like.device, generator=layer.generator)

    Q = torch.linalg.qr(normal(r, r))[0]  # (r, r)
    A = (normal(n, r // 2) @ Q[0::2]).T / 10  # (r, n)
    B = normal(r // 2, m).T @ Q[1::2] / 10  # (m, r)
    return finish(layer, A, B)


METHOD = Method(
    name="orthogonal",
    title="Orthogonal",
    source="Rethinking LoRA initialisation, https://datta0.github.io/posts/rethink-lora-init/",
    start="keep",
    factors=factors,
)
