"""FILet: train the directions of least Fisher energy, freeze the rest (Feng et al., arXiv:2605.01046, Algorithm 1).

The Fisher energy of a direction `u vᵀ` is `E = (vᵀ S_X v)(uᵀ S_Y u)` (eq. 14). Candidates come from the weight itself:
`V̂ = colnorm(WᵀW)` and `Û = colnorm(W V̂)` (eq. 15), or, for the `-SVD-` variants of Table 4, from its exact SVD.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from hubinit.errors import InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish
from hubinit.numerics.linalg import canonical_signs
from hubinit.numerics.statistics import Statistic


class FiletOptions(MethodOptions):
    """The six variants of Table 4 are `selection` × `scaling`: FILet-M is the default, FILet-SVD-P is P with svd."""

    selection: Literal["M", "R", "P"] = Field(
        default="M",
        description="M: minimal Fisher energy (the paper's method); R: random; P: maximal",
    )
    scaling: Literal["fisher", "svd"] = Field(
        default="fisher",
        description="fisher: surrogate directions scaled by √energy (the paper's method); "
        "svd: the exact singular directions of W scaled by √σ (the paper's -SVD- variants)",
    )
    energy_scale: Literal["token", "feature", "example", "relative"] | Annotated[float, Field(gt=0)] = Field(
        default="token",
        description="how Algorithm 1's divisions of the energies are read; it changes √energy, never the selection. "
        "token (default): S_X and S_Y are means over tokens, gradients of the summed log-likelihood. "
        "feature: `dim(X)` and `dim(∇_Y L)` are the feature counts, the energies of `token` are divided by n·m. "
        "example: means over examples instead of tokens. "
        "relative: energies divided by their mean over all candidates, free of the loss's scale. "
        "A positive number multiplies the energies of `token`. The paper leaves it open.",
    )


def statistics(options: FiletOptions) -> frozenset[Statistic]:
    """Surrogate directions need O(n) sums, exact singular directions both moments, and a random draw of them nothing."""
    if options.scaling == "fisher":
        return frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})
    if options.selection == "R":
        return frozenset()
    return frozenset({Statistic.INPUT_MOMENT, Statistic.OUTPUT_MOMENT})


def factors(layer: Layer, options: FiletOptions) -> Factors:
    """Algorithm 1: `A = √e_sel V̂_selᵀ`, `B = Û_sel √e_sel`, with W − s·BA frozen (eqs. 16–19).

    Returns:
        A (r, n) and B (m, r); the report has the energies of all candidates and of the chosen ones (before
        `energy_scale`) and the effective rank of BA, because V̂'s unit columns are not orthogonal.

    Raises:
        InitialisationError: fewer than r candidate directions exist (zero columns of W), or all energies are zero.
    """
    return _surrogate(layer, options) if options.scaling == "fisher" else _singular(layer, options)


def _surrogate(layer: Layer, options: FiletOptions) -> Factors:
    W = layer.weight  # (m, n)
    energies = layer.per_token(Statistic.FISHER_INPUT) * layer.per_token(Statistic.FISHER_OUTPUT)  # (n,)
    valid = W.any(dim=0)  # (n,) a zero column of W gives no direction
    index = _select(layer, energies, valid, options)  # (r,)
    scaled = _rescale(layer, energies, valid, options)[index]  # (r,)
    if not scaled.any():
        raise InitialisationError(
            f"All Fisher energies chosen for module {layer.name} are zero, so both factors would start at zero and never "
            "train: its inputs or gradients vanish on the calibration data; use more data or leave the module out."
        )
    V = normalize(W.T @ W[:, index], dim=0)  # (n, r) the chosen columns of V̂ only: WᵀW is never formed
    U = normalize(W @ V, dim=0)  # (m, r)
    root = scaled.sqrt()  # (r,)
    return finish(layer, root[:, None] * V.T, U * root, _report(energies, valid, index))


def _singular(layer: Layer, options: FiletOptions) -> Factors:
    U, S, Vh = torch.linalg.svd(layer.weight, full_matrices=False)  # (m, k), (k,), (k, n)
    signs = canonical_signs(Vh.T)  # (k,)
    U, Vh = U * signs, Vh * signs[:, None]
    valid = torch.ones_like(S, dtype=torch.bool)  # (k,)
    energies = torch.zeros_like(S)  # (k,) not needed for a random draw
    if options.selection != "R":
        x = (Vh @ layer.per_token(Statistic.INPUT_MOMENT) * Vh).sum(dim=1)  # (k,) vᵀ S_X v
        y = (U * (layer.per_token(Statistic.OUTPUT_MOMENT) @ U)).sum(dim=0)  # (k,) uᵀ S_Y u
        energies = x.clamp(min=0) * y.clamp(min=0)
    index = _select(layer, energies, valid, options)  # (r,)
    root = S[index].sqrt()  # (r,)
    report = _report(energies, valid, index) if options.selection != "R" else {}
    return finish(layer, root[:, None] * Vh[index], U[:, index] * root, report)


def _select(layer: Layer, energies: Tensor, valid: Tensor, options: FiletOptions) -> Tensor:
    """Indices (r,) of the chosen candidates, by energy; ties go to the lower index."""
    candidates = valid.nonzero().squeeze(1)  # (c,)
    if candidates.shape[0] < layer.rank:
        raise InitialisationError(
            f"Module {layer.name} has {candidates.shape[0]} candidate directions, fewer than the rank {layer.rank}: "
            "the other columns of its weight are zero; lower the rank or leave the module out."
        )
    if options.selection == "R":
        order = torch.randperm(candidates.shape[0], generator=layer.generator, device=candidates.device)
    else:
        order = energies[candidates].argsort(stable=True, descending=options.selection == "P")
    return candidates[order[: layer.rank]]


def _rescale(layer: Layer, energies: Tensor, valid: Tensor, options: FiletOptions) -> Tensor:
    """The energies (n,) under the chosen reading of Algorithm 1's divisions."""
    scale = options.energy_scale
    m, n = layer.weight.shape
    if scale == "token":
        return energies
    if scale == "feature":
        return energies / (m * n)
    if scale == "example":
        assert layer.statistics is not None
        inputs = layer.statistics.tokens_of(Statistic.FISHER_INPUT)
        gradients = layer.statistics.tokens_of(Statistic.FISHER_OUTPUT)
        return energies * (inputs * gradients / max(1, layer.statistics.examples) ** 2)
    if scale == "relative":
        mean = energies[valid].mean()
        return energies / mean if float(mean) > 0 else energies
    return energies * scale


def _report(energies: Tensor, valid: Tensor, index: Tensor) -> dict[str, float]:
    chosen, known = energies[index], energies[valid]
    total = float(known.sum())
    return {
        "energy_sum": float(chosen.sum()),
        "energy_min": float(chosen.min()),
        "energy_max": float(chosen.max()),
        "energy_median_of_candidates": float(known.median()),
        "energy_share": float(chosen.sum()) / total if total else 0.0,
        "zero_energies": float((chosen == 0).sum()),  # directions with both factors zero: they never train
    }


METHOD = Method(
    name="filet",
    title="FILet",
    source="Learning in the Fisher Subspace: A Guided Initialization for LoRA Fine-Tuning, arXiv:2605.01046",
    start="keep",
    factors=factors,
    statistics=statistics,
    samples=320,  # section 4: "for all experiments"
    options=FiletOptions,
    anchored=True,
)
