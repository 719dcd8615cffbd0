"""CorDA: singular components of the weight seen through its input covariance (Yang et al., arXiv:2406.05223)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import Damped, damped_cholesky, minor_svd, top_svd
from hubinit.numerics.statistics import Statistic


class CordaOptions(MethodOptions):
    """Options of CorDA."""

    mode: Literal["ipm", "kpm"] = Field(
        default="ipm",
        description="ipm: instruction-previewed, train the r largest components (for the calibrated task); kpm: "
        "knowledge-preserved, train the r smallest (calibrate on what must be kept). PEFT's default is ipm",
    )
    damping: float = Field(
        default=0.01,
        ge=0,
        description="added to the covariance's diagonal, relative to its mean; code and PEFT 0.01",
    )


def factors(layer: Layer, options: CordaOptions) -> Factors:
    """`A = √(Σ/s) Vᵀ C⁻¹`, `B = U √(Σ/s)` of `W C = U Σ Vᵀ` with the damped input covariance C (section 3.2).

    Here C is the second moment `S_X` per token. The released code divides each example's inputs by their maximum first, which
    weighs examples differently; a factor c common to all leaves `BA` as it is and only turns A into A/√c, B into √c·B.

    Returns:
        A (r, n) and B (m, r); `s·BA` is the component of W that is trained.

    Raises:
        InitialisationError: the inputs are all zero, or the covariance cannot be factorised.
    """
    # The smallest components of W C lie far below its largest: they need float64.
    dtype = torch.float64 if options.mode == "kpm" else layer.weight.dtype
    weight = layer.weight.to(dtype)  # (m, n)
    moment, mean, inverse = layer.once("covariance", lambda: _covariance(layer, options.damping, dtype))
    seen = weight @ moment + inverse.damping * weight  # (m, n) W C
    triples = top_svd(seen, layer.rank, layer.generator) if options.mode == "ipm" else minor_svd(seen, layer.rank)
    root = (triples.S / layer.scaling).sqrt()  # (r,)
    A = root[:, None] * inverse.solve(triples.V).T / mean**0.5  # (r, n)
    B = triples.U * root * mean**0.5  # (m, r)
    energy = float(seen.square().sum())
    report = {
        "spectrum_share": float(triples.S.square().sum()) / energy if energy else 0.0,
        "damping": inverse.damping,
        "damping_raised": float(inverse.raised),
        "residual": triples.residual,
        "full_solve": float(triples.full),
    }
    return finish(layer, A, B, report)


def _covariance(layer: Layer, damping: float, dtype: torch.dtype) -> tuple[Tensor, float, Damped]:
    """The input covariance (n, n) scaled to a mean diagonal of 1 for the solves, that mean, and its damped Cholesky factor."""
    moment = layer.per_token(Statistic.INPUT_MOMENT).to(dtype)  # (n, n)
    mean = float(moment.diagonal().mean())
    if mean <= 0:
        raise InitialisationError(
            f"The inputs of module {layer.name} are zero on the calibration data, so CorDA has no covariance to work with; "
            "use more data or leave the module out of the targets."
        )
    moment = moment / mean  # (n, n)
    inverse = damped_cholesky(moment, damping)
    if inverse is None:
        raise InitialisationError(
            f"The input covariance of module {layer.name} cannot be factorised even with more damping; calibrate again."
        )
    return moment, mean, inverse


METHOD = Method(
    name="corda",
    title="CorDA",
    source="CorDA: Context-Oriented Decomposition Adaptation of Large Language Models, arXiv:2406.05223",
    start="keep",
    factors=factors,
    statistics=lambda options: frozenset({Statistic.INPUT_MOMENT}),
    samples=256,  # the paper and the released code
    options=CordaOptions,
    anchored=True,
)
