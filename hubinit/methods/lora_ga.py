"""LoRA-GA: the first update of LoRA approximates that of full fine-tuning (Wang et al., arXiv:2407.05000).

PEFT's `lora_ga` is another formula (A unscaled, B times the gradient's singular values); this is the published one.
"""

from pydantic import Field
from torch import Tensor

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import top_svd
from hubinit.numerics.statistics import Statistic


class LoraGaOptions(MethodOptions):
    """Options of LoRA-GA."""

    gamma: float = Field(
        default=16.0,
        gt=0,
        description="both factors are scaled by m^¼/√gamma (stable scale). Paper and config 16, the code's examples 64",
    )


def factors(layer: Layer, options: LoraGaOptions) -> Factors:
    """`A = m^¼/√γ · V[:, :r]ᵀ`, `B = m^¼/√γ · U[:, r:2r]` of the SVD of G (section 3.3 and the released `ArB2r`, `stable`).

    Returns:
        A (r, n) and B (m, r), with the share of ‖G‖² in the first r and in the next r singular directions.

    Raises:
        InitialisationError: 2r > min(m, n), or the gradient is zero.
    """
    (m, n), r = layer.weight.shape, layer.rank
    if 2 * r > min(m, n):
        raise InitialisationError(
            f"LoRA-GA takes 2r singular directions, so rank {r} does not fit module {layer.name}, whose weight is "
            f"{m} × {n}: choose at most {min(m, n) // 2}."
        )
    gradient = nonzero_gradient(layer)  # (m, n)
    triples = top_svd(gradient, 2 * r, layer.generator)
    scale = m**0.25 / options.gamma**0.5
    energy = float(gradient.square().sum())
    report = {
        "gradient_share_a": float(triples.S[:r].square().sum()) / energy,
        "gradient_share_b": float(triples.S[r:].square().sum()) / energy,
        "residual": triples.residual,
        "full_solve": float(triples.full),
    }
    return finish(layer, scale * triples.V[:, :r].T, scale * triples.U[:, r:], report)


def nonzero_gradient(layer: Layer) -> Tensor:
    """The mean-loss gradient G (m, n), scaled to unit norm: only its directions count, and tiny squares would vanish.

    Raises:
        InitialisationError: it is zero.
    """
    gradient = layer.statistic(Statistic.GRADIENT)  # (m, n)
    largest = gradient.abs().max()
    if float(largest) == 0:
        raise InitialisationError(
            f"The gradient of module {layer.name} is zero on the calibration data, so it has no direction to start from; "
            "check the labels, use more data, or leave the module out of the targets."
        )
    scaled = gradient / largest
    unit: Tensor = scaled / scaled.norm()
    return unit


METHOD = Method(
    name="lora-ga",
    title="LoRA-GA",
    source="LoRA-GA: Low-Rank Adaptation with Gradient Approximation, arXiv:2407.05000",
    start="keep",
    factors=factors,
    statistics=lambda options: frozenset({Statistic.GRADIENT}),
    samples=8,  # the paper's and the released configuration's 8 batches of 1 (conf/init/gradient.yaml); its examples have 128
    options=LoraGaOptions,
    anchored=True,
)
