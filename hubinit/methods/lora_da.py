"""LoRA-DA: the subspace of least expected parameter gap (arXiv:2510.24561, Algorithm 1, and its released code).

In PyTorch's layout, with the damped Fisher blocks `J⁻¹_[i] = D_ii Z⁻¹` of output i, the estimated displacement of the
weight is the natural gradient `Δ = −D G Z⁻¹` (m, n), and the guidance matrix (n, n)

    Ω = β · (tr D / N) · Z⁻¹ − Δᵀ Δ

weighs sampling variance against bias; N is the number of training examples. The rows of `A` are the eigenvectors of its r
smallest eigenvalues and `B = Δ Aᵀ`, so that `W + BA` is the target projected on the subspace. Ω is never formed while LOBPCG
converges.

One loss throughout: the per-example mean loss, of which G is the mean gradient over E examples. Its Fisher is the mean over
examples of `vec(G_i) vec(G_i)ᵀ`. The Kronecker product of the `paper` preset counts the tokens once: `Z = S_X` is a mean per
token, `Y = (1/E) Σ_t ĝ_t ĝ_tᵀ` a sum per example. The `official` preset has both per token, as the released code.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import Damped, Eigenpairs, Operator, damped_cholesky, eigenpairs, top_svd
from hubinit.numerics.statistics import Statistic

# Residual of the eigenvectors relative to the largest wanted |eigenvalue|, below which LOBPCG is believed. The trace
# tr(A Ω Aᵀ) is then right to about its square.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}

# One extreme value alone is iterated on from this dimension on.
FULL_UP_TO = 64


class LoraDaOptions(MethodOptions):
    """Values left at None are the preset's own."""

    preset: Literal["official", "paper"] = Field(
        default="official",
        description="official: the released code (diagonal output Fisher of the mean loss per token, Δ divided by its "
        "largest singular value, factors divided by √gamma). paper: the text (inverse of the full output Fisher of the "
        "mean loss per example, no rescaling, `s·BA` is the projection of Δ)",
    )
    population_size: int | None = Field(
        default=None,
        ge=1,
        description="N, the number of training examples. Default: the length of the run's training set; where that is "
        "unknown, official 100000 (the length of its training set), paper the number of calibration examples",
    )
    beta: float | None = Field(default=None, ge=0, description="weight of the variance term. official 0.03, paper 1")
    damping: float | None = Field(
        default=None,
        ge=0,
        description="ε added to both Fisher factors. official: absolute, 1e-6 (its code); "
        "paper: relative to the factor's mean diagonal, 1e-3 (ours: the text gives no number)",
    )
    gamma: float | None = Field(
        default=None, gt=0, description="both factors are divided by √gamma. official 1024, paper 1"
    )
    lobpcg_iters: int = Field(
        default=10,
        ge=1,
        description="LOBPCG iterations before a full eigendecomposition takes over; paper and code use 10",
    )
    raw_gradient: bool = Field(
        default=False, description="ablation: Δ = −G instead of the natural gradient (with beta=0: LoRA-One's subspace)"
    )


@dataclass(frozen=True)
class Settings:
    """The options with the preset's values filled in."""

    beta: float
    damping: float
    relative_damping: bool
    gamma: float
    population_size: int | None  # where neither the options nor the run says; None: the number of calibration examples
    normalise: bool
    full_output: bool
    project: bool  # divide B by s, so that s·BA is the projection


def resolve(options: LoraDaOptions) -> Settings:
    """What a preset means; explicit options win."""
    official = options.preset == "official"

    def chosen(value: float | None, default: float) -> float:
        return default if value is None else value

    return Settings(
        beta=chosen(options.beta, 0.03 if official else 1.0),
        damping=chosen(options.damping, 1e-6 if official else 1e-3),
        relative_damping=not official,
        gamma=chosen(options.gamma, 1024.0 if official else 1.0),
        population_size=100_000 if official else None,
        normalise=official,
        full_output=not official,
        project=not official,
    )


def statistics(options: LoraDaOptions) -> frozenset[Statistic]:
    """G always; both Fisher factors unless the variance term and the natural gradient are switched off."""
    use = resolve(options)
    if options.raw_gradient and use.beta == 0:
        return frozenset({Statistic.GRADIENT})
    output = Statistic.MEAN_OUTPUT_MOMENT if use.full_output else Statistic.MEAN_OUTPUT_DIAGONAL
    return frozenset({Statistic.GRADIENT, Statistic.INPUT_MOMENT, output})


def factors(layer: Layer, options: LoraDaOptions) -> Factors:
    """A: eigenvectors of Ω's r smallest eigenvalues; B = Δ Aᵀ; both scaled as the preset says.

    Returns:
        A (r, n) and B (m, r). The report has the range of the eigenvalues of Ω/σ_1(Δ)², the share of ‖Δ‖² in the subspace, N,
        the damping used and how often it was raised, and whether a full eigendecomposition took over from LOBPCG
        (`full_solve`).

    Raises:
        InitialisationError: a Fisher factor cannot be factorised even with the damping raised.
    """
    use = resolve(options)
    guidance, report = _guidance(layer, options, use)
    pairs = _smallest(layer, guidance, options.lobpcg_iters)
    A = pairs.vectors.T  # (r, n)
    B = guidance.delta @ pairs.vectors  # (m, r) of the normalised Δ
    energy = float(guidance.delta.square().sum())
    report |= {
        "eigenvalue_min": float(pairs.values.min()),
        "eigenvalue_max": float(pairs.values.max()),
        "displacement_share": float(B.square().sum()) / energy if energy else 0.0,
        "residual": pairs.residual,
        "iterations": float(pairs.iterations),
        "full_solve": float(pairs.full),
    }
    if not use.normalise:
        B = B * guidance.scale
    if use.project:
        B = B / layer.scaling
    root = use.gamma**0.5
    return finish(layer, A / root, B / root, report)


@dataclass(frozen=True)
class Guidance:
    """Ω / σ_1(Δ)² as an operator: `variance · Z⁻¹ − Δᵀ Δ` with Δ of spectral norm 1 (or zero); the eigenvectors are Ω's."""

    delta: Tensor  # (m, n) Δ / σ_1(Δ)
    scale: float  # σ_1(Δ); 1 where Δ = 0
    variance: float  # β tr(D) / (N σ_1(Δ)²)
    Z: Tensor | None  # (n, n) input Fisher without damping; None when the variance term is off
    inverse: Damped | None

    def __call__(self, v: Tensor) -> Tensor:
        """Ω v for `v: (n, k)`."""
        out = -(self.delta.T @ (self.delta @ v))  # (n, k)
        if self.inverse is not None and self.variance > 0:
            out += self.variance * self.inverse.solve(v)
        return out

    def dense(self) -> Tensor:
        """Ω (n, n), formed only for the full solve."""
        omega = -(self.delta.T @ self.delta)  # (n, n)
        if self.inverse is not None and self.variance > 0:
            omega += self.variance * torch.cholesky_inverse(self.inverse.L)
        return omega


def _guidance(layer: Layer, options: LoraDaOptions, use: Settings) -> tuple[Guidance, dict[str, float]]:
    gradient = layer.per_example(Statistic.GRADIENT)  # (m, n)
    report: dict[str, float] = {}
    Z, inverse, variance, delta = None, None, 0.0, -gradient
    if not (options.raw_gradient and use.beta == 0):
        Z = layer.once("input", lambda: layer.per_token(Statistic.INPUT_MOMENT))  # (n, n)
        inverse = layer.once("inverse", lambda: _factorise(layer, Z, use, "input"))
        D = _output_inverse(layer, use)  # (m,)
        population = _population(layer, options, use)
        variance = use.beta * float(D.sum()) / population
        report |= {"damping_input": inverse.damping, "damping_raised": float(inverse.raised)}
        report["population_size"] = float(population)
        if not options.raw_gradient:
            delta = -inverse.solve((D[:, None] * gradient).T).T  # (m, n)
    scale = float(top_svd(delta, 1, layer.generator, small=FULL_UP_TO).S[0]) or 1.0
    report["displacement_norm"] = scale if delta.any() else 0.0
    return Guidance(delta / scale, scale, variance / scale**2, Z, inverse), report


def _population(layer: Layer, options: LoraDaOptions, use: Settings) -> int:
    """N: what the option says, else the length of the training set, else the preset's number."""
    assert layer.statistics is not None
    return options.population_size or layer.population or use.population_size or max(1, layer.statistics.examples)


def _factorise(layer: Layer, matrix: Tensor, use: Settings, side: str) -> Damped:
    mean = float(matrix.diagonal().mean())
    if use.relative_damping and mean <= 0:
        raise InitialisationError(
            f"The {side} Fisher factor of module {layer.name} is zero on the calibration data, so LoRA-DA's paper preset has "
            "nothing to invert; check the labels, use more data, or leave the module out of the targets."
        )
    damped = damped_cholesky(matrix, use.damping * (mean if use.relative_damping else 1.0))
    if damped is None:
        raise InitialisationError(
            f"The {side} Fisher factor of module {layer.name} cannot be factorised even with more damping: "
            "it is far from positive semidefinite; calibrate again, with more examples or in float32."
        )
    return damped


def _output_inverse(layer: Layer, use: Settings) -> Tensor:
    """Diagonal (m,) of D: `1/(d̂_Y + ε)` per token (official) or `[(Y + ε)⁻¹]_ii` per example (paper)."""
    if not use.full_output:
        diagonal = layer.per_token(Statistic.MEAN_OUTPUT_DIAGONAL).clamp(min=0)  # (m,)
        epsilon = use.damping or torch.finfo(diagonal.dtype).tiny
        return 1 / (diagonal + epsilon)
    moment = layer.per_example(Statistic.MEAN_OUTPUT_MOMENT)  # (m, m)
    damped = _factorise(layer, moment, use, "output")
    return torch.cholesky_inverse(damped.L).diagonal().clone()


def _smallest(layer: Layer, guidance: Guidance, iterations: int) -> Eigenpairs:
    """The r smallest eigenpairs of Ω.

    Half of the start block holds leading directions of Δ (they minimise −ΔᵀΔ), half leading ones of Z (they minimise Z⁻¹).
    """
    (m, n), r = layer.weight.shape, layer.rank
    block = min(n, r + max(8, r // 2))
    delta = guidance.delta
    precondition = _preconditioner(layer, guidance)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, dtype=delta.dtype, device=delta.device, generator=layer.generator)

    bias = delta.T @ (delta @ (delta.T @ normal(m, block // 2)))  # (n, k/2)
    rest = normal(n, block - block // 2)  # (n, k/2)
    start = torch.cat([bias, rest if precondition is None else precondition(rest)], dim=1)  # (n, k)
    return eigenpairs(
        guidance,
        r,
        "smallest",
        layer.generator,
        dense=guidance.dense,
        start=start,
        precondition=precondition,
        iterations=iterations,
        tolerance=TOLERANCE[delta.dtype],
    )


def _preconditioner(layer: Layer, guidance: Guidance) -> Operator | None:
    """`(variance·Z⁻¹ + σI)⁻¹ = Z (variance·I + σZ)⁻¹` with σ the size of the wanted eigenvalues; None where Z⁻¹ is mild.

    On SmolLM2-135M's layers it brings the released code's ten iterations from no convergence to a residual of 1e-4.
    """
    Z, variance = guidance.Z, guidance.variance
    if Z is None or guidance.inverse is None or variance == 0:
        return None
    widest = layer.once(
        "widest",
        lambda: float(eigenpairs(Z, 1, "largest", layer.generator, tolerance=1e-2, small=FULL_UP_TO).values[0]),
    )
    if widest <= 0:
        return None
    sigma = max(float(guidance.delta.any()), variance / widest)  # ‖Δ‖ is 1 or 0
    stiffest = variance / max(guidance.inverse.damping, 1e-30)  # the largest eigenvalue of variance·Z⁻¹, at most
    if stiffest <= 0.1 * sigma:
        return None
    shifted = damped_cholesky(sigma / variance * Z, 1.0)
    return None if shifted is None else lambda v: Z @ shifted.solve(v)


METHOD = Method(
    name="lora-da",
    title="LoRA-DA",
    source="LoRA-DA: Data-Aware Initialization for Low-Rank Adaptation via Asymptotic Analysis, arXiv:2510.24561",
    start="shift",
    factors=factors,
    statistics=statistics,
    samples=256,  # the paper's default, and the released code's
    options=LoraDaOptions,
    version=2,  # 1 mixed the summed loss's Fisher with the mean loss's gradient in the paper preset
)
