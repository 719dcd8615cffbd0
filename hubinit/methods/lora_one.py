"""LoRA-One: one step along the gradient's leading singular directions (Zhang et al., arXiv:2502.01235).

The paper's preconditioned optimiser is not part of the initialisation.
"""

from pydantic import Field

from hubinit.methods.lora_ga import nonzero_gradient
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import top_svd
from hubinit.numerics.statistics import Statistic


class LoraOneOptions(MethodOptions):
    """Options of LoRA-One."""

    gamma: float = Field(
        default=128.0, gt=0, description="both factors are divided by √gamma; the released code has 128"
    )


def factors(layer: Layer, options: LoraOneOptions) -> Factors:
    """`A = √(S_r/S_1) V_rᵀ/√γ`, `B = U_r √(S_r/S_1)/√γ` of the SVD of −G, as in the released code.

    The README's formula has `diag(S)` in place of its square root; the code is followed.

    Returns:
        A (r, n) and B (m, r), with the share of ‖G‖² in the subspace.

    Raises:
        InitialisationError: the gradient is zero.
    """
    descent = -nonzero_gradient(layer)  # (m, n)
    triples = top_svd(descent, layer.rank, layer.generator)
    root = (triples.S / triples.S[0] / options.gamma).sqrt()  # (r,)
    report = {
        "gradient_share": float(triples.S.square().sum()),
        "residual": triples.residual,
        "full_solve": float(triples.full),
    }
    return finish(layer, root[:, None] * triples.V.T, triples.U * root, report)


METHOD = Method(
    name="lora-one",
    title="LoRA-One",
    source="LoRA-One: One-Step Full Gradient Could Suffice for Fine-Tuning Large Language Models, arXiv:2502.01235",
    start="shift",
    factors=factors,
    statistics=lambda options: frozenset({Statistic.GRADIENT}),
    samples=8,  # the released configuration: 8 batches of 1; its README recommends 8 to 64
    options=LoraOneOptions,
)
