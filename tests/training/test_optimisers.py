"""Each optimiser against its formula in float64, and with the start of every method: it trains it, or says why not."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hubinit
from hubinit.adapters.anchor import ADAPTER, ANCHOR
from hubinit.errors import HubinitError
from hubinit.methods import METHODS
from hubinit.methods import get as method_of
from hubinit.specs import Recipe
from hubinit.training.optimisers import OPTIMISERS, check_fit, get
from tests import cases
from tests.adapters.small import RESIDUAL

RATE = 1e-2
UNFIT = {
    "adamw": set(),
    "lora+": {"mica", "neat", "peft:vera"},
    "frozen-a": {"mica", "peft:vera"},
    "lora-fa": {"dora", "kasa", "mica", "neat", "peft:adalora", "peft:lora", "peft:vera"},
    "riemannian": {"kasa", "mica", "neat", "peft:adalora", "peft:lora", "peft:vera"},
}
FREEZE_A = {"frozen-a", "lora-fa"}


def build(name: str, model: Any, **settings: Any) -> torch.optim.Optimizer:
    return get(name).build(model, RATE, Recipe(optimiser=name, **settings))


def backward(model: Any, seed: int = 0) -> None:
    model.zero_grad()
    model(**cases.batches("llama")[seed]).loss.backward()


def trained(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def exact(method: Any = RESIDUAL, **settings: Any) -> Any:
    """A float64 model with both factors away from zero, and their anchor beside them."""
    return hubinit.initialize(cases.build("llama", dtype=torch.float64), method, rank=2, **settings)


def layers(model: Any) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A, B and s of every adapted layer."""
    for module in model.modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            yield module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight, module.scaling[ADAPTER]


@pytest.mark.parametrize("method", [*METHODS, "peft:lora", "peft:adalora", "peft:vera"])
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_every_start_is_trained_or_refused(name: str, method: str) -> None:
    """What it says it trains moves, and nothing else does: neither an anchor nor a frozen factor."""
    if method in UNFIT[name]:
        with pytest.raises(HubinitError, match=f"'{name}' does not fit method '{method}'".replace("+", r"\+")):
            check_fit(get(name), method_of(method))
        return
    check_fit(get(name), method_of(method))
    base, batches = cases.build("llama"), cases.batches("llama")
    options = {"total_step": 9} if method == "peft:adalora" else {}
    model = hubinit.initialize(base, method, rank=2, batches=batches, **options)
    started, before = set(trained(model)), {key: value.clone() for key, value in model.named_parameters()}
    optimiser = build(name, model)
    for step in range(3):
        backward(model, step % len(batches))
        optimiser.step()
    moved = {key for key, value in model.named_parameters() if not value.equal(before[key])}
    frozen = {key for key in started if name in FREEZE_A and f".{method_of(method).a_parameter}." in key}
    assert bool(frozen) == (name in FREEZE_A)
    assert moved == started - frozen == set(trained(model))
    assert all(bool(value.isfinite().all()) for value in trained(model).values())


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "adamw"])
def test_a_model_that_it_would_silently_step_as_adamw_does_is_refused(name: str) -> None:
    for method in ("mica", "peft:vera"):
        with pytest.raises(HubinitError, match="adamw"):
            build(name, hubinit.initialize(cases.build("llama"), method, rank=2))


def test_lora_plus_gives_b_a_multiple_of_the_rate_of_a() -> None:
    model = hubinit.initialize(cases.build("llama"), "lora", rank=2)
    for settings, ratio in (({}, 16), ({"lora_plus_ratio": 4.0}, 4)):
        optimiser = build("lora+", model, **settings)
        rates = {id(parameter): group["lr"] for group in optimiser.param_groups for parameter in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert rates[id(parameter)] == pytest.approx(RATE * (ratio if "lora_B" in name else 1))


def test_frozen_a_steps_b_as_adamw_does() -> None:
    plain, frozen = exact(), exact()
    start = [A.detach().clone() for A, _, _ in layers(plain)]
    for model, name in ((plain, "adamw"), (frozen, "frozen-a")):
        optimiser = build(name, model)
        backward(model)
        optimiser.step()
    for (A, B, _), (frozen_a, other, _), before in zip(layers(plain), layers(frozen), start, strict=True):
        assert not A.equal(before)
        assert frozen_a.equal(before)
        assert B.equal(other)


def test_lora_fa_is_adam_on_the_projected_gradient_of_b() -> None:
    """`grad_B (A Aᵀ)⁻¹ / s²` (eq. 6 of LoRA-FA as PEFT has it): times s and A, the projection of W's gradient on A's rows."""
    model = exact(alpha=6)
    optimiser = build("lora-fa", model, weight_decay=0.1)
    expected = [B.detach().clone() for _, B, _ in layers(model)]
    first, second = [[torch.zeros_like(B) for B in expected] for _ in range(2)]
    for step in (1, 2, 3):
        backward(model, step % 2)
        for index, (A, B, s) in enumerate(layers(model)):
            assert B.grad is not None
            gradient = B.grad @ torch.linalg.inv(A @ A.T) / s**2  # (m, r)
            first[index] = 0.9 * first[index] + 0.1 * gradient
            second[index] = 0.999 * second[index] + 0.001 * gradient**2
            bias = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            stepped = expected[index] - RATE * bias * first[index] / (second[index].sqrt() + 1e-6)
            expected[index] = stepped * (1 - RATE * 0.1)
        optimiser.step()
        for (_, B, _), value in zip(layers(model), expected, strict=True):
            torch.testing.assert_close(B.detach(), value.detach(), rtol=1e-5, atol=1e-9)  # PEFT adds 1e-8 to A Aᵀ


def test_riemannian_is_adamw_on_the_preconditioned_gradients() -> None:
    damping = 0.3
    model, oracle = exact(), exact()
    optimiser = build("riemannian", model, riemannian_damping=damping, weight_decay=0.1)
    plain = build("adamw", oracle, weight_decay=0.1)
    for step in range(3):
        backward(model, step % 2)
        backward(oracle, step % 2)
        for A, B, _ in layers(oracle):
            assert A.grad is not None and B.grad is not None
            eye = torch.eye(A.shape[0], dtype=A.dtype)
            gradients = (
                torch.linalg.inv(B.T @ B + damping * eye) @ A.grad,
                B.grad @ torch.linalg.inv(A @ A.T + damping * eye),
            )
            A.grad, B.grad = (gradient.detach() for gradient in gradients)
        optimiser.step()
        plain.step()
    for value, expected in zip(trained(model).values(), trained(oracle).values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_the_preconditioned_step_of_the_product_does_not_see_how_it_is_split() -> None:
    """A → cA, B → B/c leave BA, and with the preconditioned gradients what a step adds to it; with the plain ones they do not."""

    def directions(c: float, damping: float | None) -> list[Tensor]:
        model = exact()
        with torch.no_grad():
            for A, B, _ in layers(model):
                A *= c
                B /= c
        optimiser = build("riemannian", model, riemannian_damping=damping) if damping else None
        backward(model)
        factors = [(A.detach().clone(), B.detach().clone()) for A, B, _ in layers(model)]
        if optimiser is not None:
            optimiser.step()  # leaves the gradients that it stepped by
        gradients = [(A.grad, B.grad) for A, B, _ in layers(model)]
        return [B @ dA + dB @ A for (A, B), (dA, dB) in zip(factors, gradients, strict=True)]  # type: ignore[operator]

    for one, other in zip(directions(1.0, 1e-12), directions(5.0, 1e-12), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * float(one.abs().max()))
    plain = zip(directions(1.0, None), directions(5.0, None), strict=True)
    assert all(float((one - other).norm()) > 0.1 * float(one.norm()) for one, other in plain)


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_vectors_do_not_decay_and_anchors_are_never_touched(name: str) -> None:
    model = hubinit.initialize(cases.build("bert"), RESIDUAL, rank=2)
    optimiser = build(name, model, weight_decay=0.1)
    named = {id(parameter): key for key, parameter in model.named_parameters()}
    seen = 0
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            assert f".{ANCHOR}." not in named[id(parameter)]
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.1)
            seen += parameter.ndim == 1
    assert seen, "the head has a bias"


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(HubinitError, match="did you mean lora"):
        get("lora++")
