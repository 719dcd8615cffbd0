"""KaSA's regularisers against the sums of the released code and of the paper, written out in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hubinit
from hubinit.methods import get, parse_options
from hubinit.training.optimisers import freeze_a
from tests import cases
from tests.adapters.small import train

BETA, GAMMA = 0.3, 0.7


def trained(**options: Any) -> Any:
    model = hubinit.initialize(cases.build("llama"), "kasa", rank=4, beta=BETA, gamma=GAMMA, **options)
    train(model)
    return model


def penalty(model: Any, **options: Any) -> Tensor:
    method = get("kasa")
    assert method.penalty is not None
    return method.penalty(model, parse_options(method, {"beta": BETA, "gamma": GAMMA, **options}))


def parts(model: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """d (r,), A (r, n) and B (m, r) of each layer in float64."""
    layers = [module for module in model.modules() if hasattr(module, "lora_diag")]
    return [
        (
            layer.lora_diag["default"].double(),
            layer.lora_A["default"].weight.double(),
            layer.lora_B["default"].weight.double(),
        )
        for layer in layers
    ]


def off(gram: Tensor) -> Tensor:
    return (gram - torch.eye(len(gram), dtype=gram.dtype)).norm()


@pytest.mark.parametrize("options", [{}, {"truncation": "released"}])
def test_the_released_term_is_the_mean_over_layers_of_the_wide_products(options: dict[str, Any]) -> None:
    model = trained(**options)
    found = parts(model)
    scale = sum(d.square().sum() for d, _, _ in found)
    shape = sum(off(A.T @ A) + off(B @ B.T) for _, A, B in found)
    expected = (BETA * scale + GAMMA * shape) / len(found)
    assert float(penalty(model)) == pytest.approx(float(expected), rel=1e-6)
    own = torch.autograd.grad(penalty(model), [p for p in model.parameters() if p.requires_grad])
    wanted = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad])
    for one, other in zip(own, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_peft_s_term_is_the_sum_over_layers_of_the_narrow_products() -> None:
    model = trained(regulariser="peft")
    expected = sum(BETA * d.square().sum() + GAMMA * (off(A @ A.T) + off(B.T @ B)) for d, A, B in parts(model))
    assert float(penalty(model, regulariser="peft")) == pytest.approx(float(expected), rel=1e-6)


def test_a_frozen_factor_is_not_in_the_released_term_and_the_start_has_a_gradient() -> None:
    model = hubinit.initialize(cases.build("llama"), "kasa", rank=4)
    freeze_a(model)
    found = parts(model)
    expected = BETA * sum(d.square().sum() for d, _, _ in found) + GAMMA * sum(len(B) ** 0.5 for _, _, B in found)
    assert float(penalty(model)) == pytest.approx(float(expected) / len(found), rel=1e-6), "B is zero at the start"
    penalty(model).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
