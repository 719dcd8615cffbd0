"""Curvature of the loss in what a model trains, and the learning rate that it suggests to begin with.

With `d` the first step of the run's own optimiser per unit of learning rate (Adam's is −sign g, whatever the size of g), the
loss along it is `L(η) ≈ L − η·slope + η²/2·bend`, `slope = −gᵀd` and `bend = dᵀGd`. Its minimum `η = slope / bend` is the best
single step. G is the Gauss–Newton part of the Hessian, `Jᵀ H_out J` (arXiv 1412.1193), the Fisher of the model's own
distribution: it is never negative, so there is always a minimum, and a product with it costs less than one with the Hessian.

The largest eigenvalue λ of G bounds the rate of plain gradient descent (`η < 2/λ`). It says little about Adam's: Adam divides
by |g|, so scaling the loss scales λ and nothing that Adam does. Where B = 0, G is not zero in B alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from hubinit.data.encode import IGNORED, Example, ImageExample, TokenExample, batches
from hubinit.errors import HubinitError
from hubinit.specs import Recipe
from hubinit.training import optimisers

EXAMPLES = 16  # of the training set, as many as one small optimiser step
TOLERANCE = 0.05  # of the eigenvalue, relative
MOST_PRODUCTS = 24

Batch = dict[str, Tensor]
Examples = Sequence[Example | TokenExample] | Sequence[ImageExample]


@dataclass(frozen=True)
class Problem:
    """The mean loss of some examples as a function of the trained parameters, n numbers in all.

    Attributes:
        model: without dropout while inside `twice_differentiable`.
        optimiser: the run's, with learning rate 1.
        parameters: what it trains, in the order of the vectors.
        batches: with labels, on the model's device.
        count: label tokens (images) of all batches.
    """

    model: Any
    optimiser: torch.optim.Optimizer
    parameters: Sequence[Tensor]
    batches: Sequence[Batch]
    count: int


@dataclass(frozen=True)
class Suggestion:
    """A learning rate to begin with, and what it comes from.

    Attributes:
        rate: slope / bend; of the optimiser, at its peak.
        slope: −gᵀd, the fall of the loss per unit of learning rate.
        bend: dᵀGd.
        eigenvalue: the largest of G, to about 5 %; None when it was not asked for.
        products: with G, a forward pass and three backward passes each.
        seconds: in all.
    """

    rate: float
    slope: float
    bend: float
    eigenvalue: float | None
    products: int
    seconds: float


def suggest_learning_rate(
    model: Any,
    processor: Any,
    examples: Examples,
    recipe: Recipe,
    *,
    with_eigenvalue: bool = False,
) -> Suggestion:
    """The learning rate that the curvature at a start suggests. The model is afterwards as before.

    Args:
        model: with its adapters attached, on its device.
        processor: its tokenizer or image processor.
        examples: training examples, a few; `EXAMPLES` of them do.
        recipe: whose optimiser, lengths and micro batches are used. A penalty of the method is left out.
        with_eigenvalue: compute the largest eigenvalue of G too, for up to `MOST_PRODUCTS` further products.

    Raises:
        HubinitError: nothing to train, or a loss that is not finite or does not change along the step.
    """
    started = time.perf_counter()
    if not examples or not optimisers.trained(model):
        raise HubinitError("A learning rate needs training examples and a model that trains something.")
    with prepare_problem(model, processor, examples, recipe) as problem:
        gradients = gradient(problem)
        step = first_step(problem, gradients)
        slope, bend = -float(gradients @ step), float(step @ ggn_product(problem, step))
        if not (0 < bend < float("inf") and slope > 0):
            raise HubinitError(
                f"The start suggests no learning rate: slope {slope:.3g} and curvature {bend:.3g} along the first step; "
                "give one yourself."
            )
        eigenvalue, products = None, 0
        if with_eigenvalue:
            eigenvalue, products = largest_eigenvalue(lambda v: ggn_product(problem, v), len(step))
    return Suggestion(slope / bend, slope, bend, eigenvalue, products + 1, time.perf_counter() - started)


@contextmanager
def prepare_problem(model: Any, processor: Any, examples: Examples, recipe: Recipe) -> Iterator[Problem]:
    """The loss of examples, with attention that can be differentiated twice (torch's fused kernels cannot) and no dropout.

    However that ends, the model is back in its mode, and trains what it trained.
    """
    device, training, trained = next(model.parameters()).device, model.training, optimisers.trained(model)
    size, length, loss_on = recipe.micro_batch_size, recipe.max_length, recipe.loss_on
    moved = [
        {name: value.to(device) for name, value in batch.items()}
        for batch in batches(examples, processor, batch_size=size, max_length=length, loss_on=loss_on)
    ]
    count = sum(int(label_mask(batch["labels"]).sum()) for batch in moved)
    model.eval()
    try:
        optimiser = optimisers.get(recipe.optimiser).build(model, 1.0, recipe)  # may freeze A
        with sdpa_kernel(SDPBackend.MATH):
            yield Problem(model, optimiser, list(optimisers.trained(model).values()), moved, count)
    finally:
        model.train(training)
        for parameter in trained.values():
            parameter.requires_grad_(True)


def label_mask(labels: Tensor) -> Tensor:
    """Which labels have a loss: of tokens (B, T) those of positions 1 to T − 1, as (B, T − 1); of images all, as (B,)."""
    return (labels if labels.ndim == 1 else labels[:, 1:]) != IGNORED


def label_logits(model: Any, batch: Batch) -> Tensor:
    """(N, V) float32 or float64: the logits that predict the N labels of a batch."""
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    mask = label_mask(batch["labels"])
    kept = logits[mask] if mask.ndim == 1 else logits[:, :-1][mask]  # (N, V)
    return kept.to(torch.promote_types(kept.dtype, torch.float32))


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """(n,) float64: the entries of all tensors, in their order."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector (n,) in the shapes and dtypes of `like`."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor).to(tensor) for part, tensor in zip(parts, like, strict=True)]


def gradient(problem: Problem) -> Tensor:
    """(n,) float64: the gradient of the mean negative log-likelihood of the labels."""
    total = torch.zeros_like(flatten(problem.parameters))
    for batch in problem.batches:
        labels = batch["labels"] if batch["labels"].ndim == 1 else batch["labels"][:, 1:]
        targets = labels[label_mask(batch["labels"])]  # (N,)
        loss = cross_entropy(label_logits(problem.model, batch), targets, reduction="sum")
        total += flatten(grad(loss / problem.count, problem.parameters, materialize_grads=True))
    return total


def ggn_product(problem: Problem, vector: Tensor) -> Tensor:
    """(n,) float64: `G v = Jᵀ H_out J v`, with `H_out = diag p − p pᵀ` for each label, over their count.

    J v comes from two backward passes: `Jᵀ u` is linear in u, and its transpose is J. DoRA's norms stay constants, as in its
    gradient.
    """
    direction = unflatten(vector, problem.parameters)
    total = torch.zeros_like(vector)
    for batch in problem.batches:
        logits = label_logits(problem.model, batch)  # (N, V)
        dummy = torch.zeros_like(logits, requires_grad=True)  # (N, V) u
        back = grad(logits, problem.parameters, dummy, create_graph=True, materialize_grads=True)  # Jᵀ u
        (pushed,) = grad(back, dummy, direction, retain_graph=True)  # (N, V) J v
        p = logits.detach().softmax(-1)  # (N, V)
        bent = p * (pushed - (p * pushed).sum(-1, keepdim=True)) / problem.count  # (N, V)
        total += flatten(grad(logits, problem.parameters, bent, materialize_grads=True))
    return total


def first_step(problem: Problem, gradients: Tensor) -> Tensor:
    """(n,) float64: where the optimiser goes first, per unit of learning rate. The parameters are as before."""
    parameters = problem.parameters
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter, part in zip(parameters, unflatten(gradients, parameters), strict=True):
            parameter.grad = part
        problem.optimiser.step()
        return flatten(parameters) - flatten(before)
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.grad = None


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    tolerance: float = TOLERANCE,
    most: int = MOST_PRODUCTS,
    seed: int = 0,
) -> tuple[float, int]:
    """The largest eigenvalue of a symmetric matrix C, by Lanczos with full reorthogonalisation.

    Not scipy's: products are what it costs, and this stops at the first that is good enough, when the residual `‖C y − θ y‖` of
    the Ritz pair (θ, y) is below `tolerance · |θ|`. An eigenvalue lies that near.

    Args:
        product: C v of a vector v (n,) float64.
        size: n.
        tolerance: relative.
        most: products at most.
        seed: of the first vector.

    Returns:
        θ, and how many products it took.
    """
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    while True:
        new = product(basis[-1])  # (n,)
        diagonal.append(basis[-1] @ new)
        for _ in range(2):  # once is not enough where little is left
            for known in basis:
                new = new - (known @ new) * known
        beside.append(new.norm())
        inner = torch.diag(torch.stack(diagonal))  # (k, k) C in the basis
        if len(diagonal) > 1:
            off = torch.stack(beside[:-1])  # (k - 1,)
            inner = inner + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(inner)
        residual = float(beside[-1] * vectors[-1, -1].abs())
        if residual <= tolerance * abs(float(values[-1])) or len(diagonal) >= min(most, size):
            return float(values[-1]), len(diagonal)
        basis.append(new / beside[-1])
