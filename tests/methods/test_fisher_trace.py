"""LoRA-DA's Fisher has the size of the true one: the trace of its Kronecker product against the gradients of single examples."""

import dataclasses

import pytest
import torch

import hubinit
from hubinit.methods import METHODS, Layer, parse_options
from hubinit.models.layers import target_layers
from tests import cases
from tests.calibration.oracle import examples_of, loss_of
from tests.methods.layers import case

HUGE = 1e8  # relative damping: (Y + ε)⁻¹ and (Z + ε)⁻¹ are then multiples of the identity


def kfac_trace(layer: Layer, gradient: torch.Tensor) -> float:
    """tr(Z ⊗ Y), read off the factors: under huge relative damping `Δ = −G · mn / (HUGE² tr Z tr Y)`, and s·BA is Δ."""
    m, n = layer.weight.shape
    method = METHODS["lora-da"]
    assert method.factors is not None
    full = dataclasses.replace(layer, rank=min(m, n))
    found = method.factors(full, parse_options(method, {"preset": "paper", "damping": HUGE, "beta": 0}))
    update = layer.scaling * found.B @ found.A  # (m, n)
    return float(m * n * gradient.norm() / (HUGE**2 * update.norm()))


@pytest.mark.parametrize(("m", "n"), [(6, 10), (11, 8)])
def test_the_trace_is_exact_where_the_tokens_of_an_example_are_orthogonal(m: int, n: int) -> None:
    c = case(m, n, 2, tokens=24, orthogonal=True)
    gradients = torch.stack(c.example_gradients())  # (E, m, n)
    true = float(gradients.square().sum()) / c.examples
    assert kfac_trace(c.layer, gradients.mean(0)) == pytest.approx(true, rel=1e-6)


def test_the_trace_is_near_the_true_one_on_a_model() -> None:
    """Every layer of a small language model, examples of several lengths: tokens counted twice would be off by tens."""
    model, batches = cases.build("llama", dtype=torch.float64), cases.batches("llama", examples=8, length=30)
    for batch in batches:
        batch["input_ids"].clamp_(min=1)  # id 0's embedding is zero, where RMSNorm's gradient is 1/√ε times too large
    method = METHODS["lora-da"]
    needed = method.statistics(parse_options(method, {"preset": "paper"}))
    calibration = hubinit.calibrate(model, batches, statistics=needed)
    layers = target_layers(model)
    rows = examples_of(batches)
    gradients = []  # of each example's mean loss, by autograd
    for row in rows:
        loss, length = loss_of("llama", model, row)
        gradients.append(torch.autograd.grad(loss / length, [module.weight for module in layers.values()]))
    ratios = []
    for index, (name, module) in enumerate(layers.items()):
        mine = torch.stack([found[index] for found in gradients])  # (E, m, n)
        layer = Layer(name, module.weight.detach(), 2, 2.0, torch.Generator().manual_seed(0), calibration.layers[name])
        ratios.append(kfac_trace(layer, mine.mean(0)) / float(mine.square().sum(dim=(1, 2)).mean()))
    assert min(ratios) > 0.5, ratios
    assert max(ratios) < 2, ratios
