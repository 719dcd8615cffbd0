"""EVA: A spans the directions of largest variance of the layer's inputs (Paischer et al., arXiv:2410.07170)."""

import torch
from pydantic import Field
from torch import Tensor

from hubinit.calibration.statistics import Statistic
from hubinit.errors import InitialisationError
from hubinit.methods.linalg import Eigenpairs, eigenpairs
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish


class EvaOptions(MethodOptions):
    """Options of EVA. Its label mask is the calibration's `tokens="labels"`."""

    rho: float = Field(
        default=2.0,
        ge=1,
        description="ranks are redistributed by explained variance, up to rho·r per module, at an equal total; 1 keeps "
        "every rank. PEFT's default 2, the paper's runs 1 or 2",
    )
    center: bool = Field(default=True, description="subtract the inputs' mean; code and PEFT do (incremental PCA)")
    whiten: bool = Field(
        default=False,
        description="divide each direction by the square root of its singular value √(λ·T); PEFT's default False",
    )


def factors(layer: Layer, options: EvaOptions) -> Factors:
    """A: the r leading eigenvectors of the inputs' covariance (section 3.2); B = 0.

    Returns:
        A (r, n) with orthonormal rows (unless whitened) and B (m, r); the report has the explained variance.

    Raises:
        InitialisationError: the inputs do not vary on the calibration data.
    """
    covariance = _covariance(layer, options)  # (n, n)
    pairs = _leading(layer, covariance, layer.rank)
    values = pairs.values.clamp(min=0)  # (r,)
    A = pairs.vectors.T  # (r, n)
    if options.whiten:
        assert layer.statistics is not None
        singular = (values * layer.statistics.tokens).sqrt()  # (r,)
        A = A / singular.clamp(min=float(singular.max()) * 1e-6).sqrt()[:, None]
    report = {
        "explained_variance": float(values.sum() / covariance.diagonal().sum()),
        "residual": pairs.residual,
        "full_solve": float(pairs.full),
    }
    return finish(layer, A, layer.weight.new_zeros(layer.weight.shape[0], layer.rank), report)


def ranks(layers: list[Layer], options: EvaOptions) -> dict[str, int]:
    """Ranks redistributed so that the components of largest explained variance are kept, at the same total (section 3.3).

    Args:
        layers: all target modules with their uniform ranks.
        options: `rho` bounds a module's rank to `round(rho · r)`, and min(m, n).

    Returns:
        The new rank of each module; 0 leaves it unadapted. Ties go to the earlier module.
    """
    if options.rho == 1:
        return {layer.name: layer.rank for layer in layers}
    solved: dict[tuple[int, int], Tensor] = {}  # modules that share an input share its covariance
    scores: list[tuple[float, int]] = []
    for position, layer in enumerate(layers):
        bound = min(round(options.rho * layer.rank), *layer.weight.shape)
        moment = layer.statistics.sums.get(Statistic.INPUT_MOMENT) if layer.statistics else None
        shared = (position if moment is None else moment.data_ptr(), bound)
        if shared not in solved:
            covariance = _covariance(layer, options)  # (n, n)
            solved[shared] = _leading(layer, covariance, bound).values / covariance.diagonal().sum()  # (bound,)
        scores += [(-float(ratio), position) for ratio in solved[shared]]
    kept = sorted(scores)[: sum(layer.rank for layer in layers)]
    counts = dict.fromkeys(range(len(layers)), 0)
    for _, position in kept:
        counts[position] += 1
    return {layer.name: counts[position] for position, layer in enumerate(layers)}


def _covariance(layer: Layer, options: EvaOptions) -> Tensor:
    covariance = layer.per_token(Statistic.INPUT_MOMENT)  # (n, n)
    if options.center:
        mean = layer.per_token(Statistic.INPUT_SUM)  # (n,)
        covariance = covariance - torch.outer(mean, mean)
    if float(covariance.diagonal().sum()) <= 1e-6 * float(layer.per_token(Statistic.INPUT_MOMENT).diagonal().sum()):
        raise InitialisationError(
            f"The inputs of module {layer.name} do not vary on the calibration data, so EVA has no directions for it; "
            "use more data or leave the module out of the targets."
        )
    return covariance


def _leading(layer: Layer, covariance: Tensor, k: int) -> Eigenpairs:
    return eigenpairs(covariance, k, "largest", layer.generator, gram=True)


METHOD = Method(
    name="eva",
    title="EVA",
    source="Parameter Efficient Fine-tuning via Explained Variance Adaptation, arXiv:2410.07170",
    start="keep",
    factors=factors,
    statistics=lambda options: frozenset(
        {Statistic.INPUT_MOMENT, Statistic.INPUT_SUM} if options.center else {Statistic.INPUT_MOMENT}
    ),
    options=EvaOptions,
    ranks=ranks,
)
