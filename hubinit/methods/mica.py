"""MiCA: B is fixed to the minor left singular vectors, A starts at zero and is trained (arXiv:2604.01694)."""

from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import minor_svd


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`A = 0`, `B = U_minor`: the left singular vectors of the r smallest singular values of W; B is never trained.

    Returns:
        A (r, n) and B (m, r).
    """
    triples = minor_svd(layer.weight, layer.rank)
    report = {
        "largest_singular_value": float(triples.S[0]),
        "smallest_singular_value": float(triples.S[-1]),
        "residual": triples.residual,
        "full_solve": float(triples.full),
    }
    return finish(layer, layer.weight.new_zeros(layer.rank, layer.weight.shape[1]), triples.U, report)


METHOD = Method(
    name="mica",
    title="MiCA",
    source="MiCA: Minor Component Adaptation, arXiv:2604.01694",
    start="keep",
    factors=factors,
    a_parameter=None,  # A is all that is trained
    train_b=False,
)
