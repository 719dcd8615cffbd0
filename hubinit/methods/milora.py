"""MiLoRA: the minor singular components are trained, the principal ones stay frozen (Wang et al., arXiv:2406.09044)."""

from hubinit.methods.pissa import from_triples
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions
from hubinit.numerics.linalg import minor_svd


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`A = √(Σ/s) Vᵀ`, `B = U √(Σ/s)` of the r smallest singular triples of W (section 3.2).

    Weights that were once quantised carry noise in exactly these components.

    Returns:
        A (r, n) and B (m, r).
    """
    return from_triples(layer, minor_svd(layer.weight, layer.rank))


METHOD = Method(
    name="milora",
    title="MiLoRA",
    source="MiLoRA: Harnessing Minor Singular Components for Parameter-Efficient LLM Finetuning, arXiv:2406.09044",
    start="keep",
    factors=factors,
    anchored=True,
)
