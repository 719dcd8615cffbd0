"""PiSSA: the principal singular components are trained, the rest is frozen (Meng et al., arXiv:2404.02948)."""

from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import Triples, top_svd


def from_triples(layer: Layer, triples: Triples) -> Factors:
    """Factors whose adapted part `s·BA` is the component `U diag(S) Vᵀ`: `A = √(S/s) Vᵀ`, `B = U √(S/s)`.

    Args:
        layer: the layer.
        triples: r singular triples of its weight.

    Returns:
        A (r, n) and B (m, r), with the component's share of ‖W‖² and whether a full factorisation was needed.
    """
    root = (triples.S / layer.scaling).sqrt()  # (r,)
    energy = float(layer.weight.square().sum())
    report = {
        "spectrum_share": float(triples.S.square().sum()) / energy if energy else 0.0,
        "largest_singular_value": float(triples.S[0]),
        "smallest_singular_value": float(triples.S[-1]),
        "residual": triples.residual,
        "full_solve": float(triples.full),
    }
    return finish(layer, root[:, None] * triples.V.T, triples.U * root, report)


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`A = √(Σ_r/s) V_rᵀ`, `B = U_r √(Σ_r/s)` of the top-r singular triples of W (eqs. 2–4)."""
    return from_triples(layer, top_svd(layer.weight, layer.rank, layer.generator))


METHOD = Method(
    name="pissa",
    title="PiSSA",
    source="PiSSA: Principal Singular Values and Singular Vectors Adaptation, arXiv:2404.02948",
    start="keep",
    factors=factors,
    anchored=True,
)
