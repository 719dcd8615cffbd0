"""Tiny layers with every calibration statistic summed by its definition, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hubinit.methods.spec import Layer
from hubinit.numerics.statistics import LayerStatistics, Statistic

SCALING = 2.0


@dataclass(frozen=True)
class Case:
    """A layer, the tokens behind its statistics, and what the formulas call S_X, S_Y, G."""

    layer: Layer
    W: Tensor  # (m, n)
    X: Tensor  # (T, n) inputs
    Y: Tensor  # (T, m) output gradients of the summed loss
    Y_mean: Tensor  # (T, m) of each example's mean loss
    examples: int
    owner: Tensor  # (T,) the example that each token belongs to
    lengths: Tensor  # (E,) label tokens of each example

    @property
    def S_X(self) -> Tensor:
        return self.X.T @ self.X / len(self.X)  # (n, n)

    @property
    def S_Y(self) -> Tensor:
        return self.Y.T @ self.Y / len(self.Y)  # (m, m)

    @property
    def G(self) -> Tensor:
        return self.Y_mean.T @ self.X / self.examples  # (m, n)

    def example_gradients(self) -> list[Tensor]:
        """Each example's gradient (m, n) of its mean loss, by autograd; Σ_t y_tᵀ W x_t has the output gradients y_t."""
        found = []
        for example in range(self.examples):
            W = self.W.clone().requires_grad_()
            mine = self.owner == example
            loss = (self.Y[mine] * (self.X[mine] @ W.T)).sum() / self.lengths[example]
            found.append(torch.autograd.grad(loss, W)[0])
        return found

    def candidates(self) -> tuple[Tensor, Tensor]:
        """FILet's Û (m, n) and V̂ (n, n)."""
        V = self.W.T @ self.W
        V = V / V.norm(dim=0)
        U = self.W @ V
        return U / U.norm(dim=0), V


def statistics_of(W: Tensor, X: Tensor, Y: Tensor, Y_mean: Tensor, examples: int) -> LayerStatistics:
    S = Statistic
    V = W.T @ W
    V = V / V.norm(dim=0).clamp(min=1e-300)
    U = W @ V
    U = U / U.norm(dim=0).clamp(min=1e-300)
    sums = {
        S.INPUT_SUM: X.sum(0),
        S.INPUT_MOMENT: X.T @ X,
        S.OUTPUT_MOMENT: Y.T @ Y,
        S.OUTPUT_DIAGONAL: (Y**2).sum(0),
        S.MEAN_OUTPUT_MOMENT: Y_mean.T @ Y_mean,
        S.MEAN_OUTPUT_DIAGONAL: (Y_mean**2).sum(0),
        S.GRADIENT: Y_mean.T @ X,
        S.FISHER_INPUT: ((X @ V) ** 2).sum(0),
        S.FISHER_OUTPUT: ((Y @ U) ** 2).sum(0),
    }
    return LayerStatistics(tokens=len(X), examples=examples, sums=sums)


def case(
    m: int,
    n: int,
    rank: int,
    *,
    tokens: int = 60,
    examples: int = 4,
    seed: int = 0,
    weight: Tensor | None = None,
    gradients: float = 0.1,
    orthogonal: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A random layer (m, n) seen by correlated tokens with an offset, as activations are.

    Args:
        m: outputs.
        n: inputs.
        rank: r.
        tokens: T, split evenly over the examples.
        examples: E; the examples have different numbers of label tokens.
        seed: of everything.
        weight: instead of a random one.
        gradients: size of the output gradients; 0 for none.
        orthogonal: the inputs of one example are orthogonal and of one length, so that tr(S_X ⊗ Y) is exactly the Fisher's.
        dtype: of the layer and its statistics.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W = normal(m, n) if weight is None else weight.double()
    spectrum = torch.arange(1, n + 1, dtype=torch.float64) ** -0.5
    X = (normal(tokens, n) * spectrum) @ torch.linalg.qr(normal(n, n))[0] + 0.3 * normal(n)  # (T, n)
    owner = torch.arange(tokens) * examples // tokens  # (T,)
    if orthogonal:
        X = torch.cat([torch.linalg.qr(normal(n, n))[0][: int((owner == e).sum())] for e in range(examples)])  # (T, n)
        X = 1.7 * X
    Y = gradients * normal(tokens, m) * torch.arange(1, m + 1, dtype=torch.float64) ** -0.3  # (T, m)
    lengths = 2 + torch.arange(examples)  # (E,)
    Y_mean = Y / lengths[owner][:, None]
    raw = statistics_of(W, X, Y, Y_mean, examples)
    stats = LayerStatistics(raw.tokens, raw.examples, {name: value.to(dtype) for name, value in raw.sums.items()})
    generator = torch.Generator().manual_seed(seed)
    return Case(Layer("layer", W.to(dtype), rank, SCALING, generator, stats), W, X, Y, Y_mean, examples, owner, lengths)
