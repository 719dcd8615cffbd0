"""EVA: A spans the directions of largest variance of the layer's inputs (Paischer et al., arXiv:2410.07170)."""

from dataclasses import dataclass

import torch
from pydantic import Field

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import Eigenpairs, eigenpairs
from hubinit.numerics.statistics import Statistic


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


@dataclass(frozen=True)
class Components:
    """Leading principal components of a layer's inputs."""

    pairs: Eigenpairs
    variance: float  # of all directions: the covariance's trace


def factors(layer: Layer, options: EvaOptions) -> Factors:
    """A: the r leading eigenvectors of the inputs' covariance (section 3.2); B = 0.

    Returns:
        A (r, n) with orthonormal rows (unless whitened) and B (m, r); the report has the explained variance.

    Raises:
        InitialisationError: the inputs do not vary on the calibration data.
    """
    found = _components(layer, options, layer.rank)
    values = found.pairs.values[: layer.rank].clamp(min=0)  # (r,)
    A = found.pairs.vectors[:, : layer.rank].T  # (r, n)
    if options.whiten:
        assert layer.statistics is not None
        singular = (values * layer.statistics.tokens).sqrt()  # (r,)
        A = A / singular.clamp(min=float(singular.max()) * 1e-6).sqrt()[:, None]
    report = {
        "explained_variance": float(values.sum()) / found.variance,
        "residual": found.pairs.residual,
        "full_solve": float(found.pairs.full),
    }
    return finish(layer, A, layer.weight.new_zeros(layer.weight.shape[0], layer.rank), report)


def scores(layer: Layer, options: EvaOptions) -> list[float]:
    """The explained variance of each component that a module may keep (section 3.3): `round(rho · r)` of them, at most min(m, n).

    Args:
        layer: with its uniform rank r.
        options: with `rho = 1` every rank stays, and nothing is scored.
    """
    if options.rho == 1:
        return []
    bound = min(round(options.rho * layer.rank), *layer.weight.shape)
    found = _components(layer, options, bound)
    return [float(value) / found.variance for value in found.pairs.values[:bound]]


def _components(layer: Layer, options: EvaOptions, least: int) -> Components:
    """At least so many components: those of a layer that shares this one's input, or of an earlier call, where they suffice."""
    found: Components | None = layer.shared.get("components")
    if found is None or len(found.pairs.values) < least:
        found = layer.shared["components"] = _solve(layer, options, least)
    return found


def _solve(layer: Layer, options: EvaOptions, k: int) -> Components:
    moment = layer.per_token(Statistic.INPUT_MOMENT)  # (n, n)
    covariance = moment
    if options.center:
        mean = layer.per_token(Statistic.INPUT_SUM)  # (n,)
        covariance = moment - torch.outer(mean, mean)
    variance = float(covariance.diagonal().sum())
    if variance <= 1e-6 * float(moment.diagonal().sum()):
        raise InitialisationError(
            f"The inputs of module {layer.name} do not vary on the calibration data, so EVA has no directions for it; "
            "use more data or leave the module out of the targets."
        )
    return Components(eigenpairs(covariance, k, "largest", layer.generator, gram=True), variance)


METHOD = Method(
    name="eva",
    title="EVA",
    source="Parameter Efficient Fine-tuning via Explained Variance Adaptation, arXiv:2410.07170",
    start="keep",
    factors=factors,
    statistics=lambda options: frozenset(
        {Statistic.INPUT_MOMENT, Statistic.INPUT_SUM} if options.center else {Statistic.INPUT_MOMENT}
    ),
    samples=None,  # the released code reads batches until the components settle, without a number
    options=EvaOptions,
    scores=scores,
)
