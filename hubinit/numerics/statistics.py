"""The sufficient statistics that the data-aware methods ask for, kept as raw sums so that calibrations add up.

Notation (PyTorch's): a layer is `y = W x`, `W: (m, n)`. For the counted tokens t = 1…T of E examples, `x_t: (n,)` is the
layer's input, `g_t: (m,)` the gradient at its output of the example's *summed* negative log-likelihood, `L_i` the number of
label tokens of example i and `ĝ_t = g_t / L_i` the gradient of its *mean* loss. Sums are float32 (float64 when the model is).

With `tokens="labels"` the sums of inputs count the label positions, and the sums of gradients the positions that predict a
label: those before them in a causal language model. GRADIENT is the full gradient, over all attended tokens, in both cases.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor


class Statistic(StrEnum):
    """Names of the sums; the shape is that of one layer."""

    INPUT_SUM = "input_sum"  # Σ_t x_t (n,)
    INPUT_MOMENT = "input_moment"  # Σ_t x_t x_tᵀ (n, n)
    OUTPUT_MOMENT = "output_moment"  # Σ_t g_t g_tᵀ (m, m)
    OUTPUT_DIAGONAL = "output_diagonal"  # Σ_t g_t² (m,)
    MEAN_OUTPUT_MOMENT = "mean_output_moment"  # Σ_t ĝ_t ĝ_tᵀ (m, m)
    MEAN_OUTPUT_DIAGONAL = "mean_output_diagonal"  # Σ_t ĝ_t² (m,)
    GRADIENT = "gradient"  # Σ_t ĝ_t x_tᵀ (m, n): E × the mean-loss gradient
    FISHER_INPUT = "fisher_input"  # Σ_t (x_tᵀ v̂_i)² (n,): covariance-free FILet
    FISHER_OUTPUT = "fisher_output"  # Σ_t (g_tᵀ û_i)² (n,): covariance-free FILet


# Sums that need a backward pass; the others come with the forward pass.
OF_GRADIENTS = frozenset(
    {
        Statistic.OUTPUT_MOMENT,
        Statistic.OUTPUT_DIAGONAL,
        Statistic.MEAN_OUTPUT_MOMENT,
        Statistic.MEAN_OUTPUT_DIAGONAL,
        Statistic.GRADIENT,
        Statistic.FISHER_OUTPUT,
    }
)


@dataclass(frozen=True)
class LayerStatistics:
    """Raw sums of one layer over the counted tokens of `examples` examples.

    Attributes:
        tokens: how many the sums of inputs count.
        examples: how many were seen.
        sums: by statistic.
        gradient_tokens: how many the sums of gradients count; None: as many as those of inputs.
    """

    tokens: int
    examples: int
    sums: dict[Statistic, Tensor] = field(default_factory=dict)
    gradient_tokens: int | None = None

    def tokens_of(self, statistic: Statistic) -> int:
        """How many tokens the sum counts."""
        if self.gradient_tokens is None or statistic not in OF_GRADIENTS:
            return self.tokens
        return self.gradient_tokens
