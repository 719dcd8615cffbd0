"""The wider product against two adapters in float64, by autograd; the residual weight with dropout; bits at the start."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hubinit
from hubinit.adapters.anchor import ADAPTER, ANCHOR
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.product import add_update
from hubinit.errors import InitialisationError
from tests import cases
from tests.adapters.small import RESIDUAL, logits, train

T, N, M, R = 7, 12, 9, 3


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("frozen_a", [False, True])
def test_value_and_gradients_are_those_of_a_residual_weight(frozen_a: bool) -> None:
    """Oracle: autograd through the dense weight `W + s·B A + s₀·B₀A₀`, without any factor kept apart."""
    W, x, g = random(M, N, seed=1), random(2, T, N, seed=2), random(2, T, M, seed=3)
    A0, B0, s, s0 = random(R, N, seed=4), random(M, R, seed=5), 1.5, 0.5
    gradients = []
    for fused in (True, False):
        x_, A, B = (t.clone().requires_grad_() for t in (x, random(R, N, seed=6), random(M, R, seed=7)))
        A.requires_grad_(not frozen_a)
        dense = W + s * B @ A + s0 * B0 @ A0
        y = add_update(x_ @ W.T, x_, (A, B, s), (A0, B0, s0)) if fused else x_ @ dense.T
        wanted = [x_, B] if frozen_a else [x_, B, A]
        gradients.append([y, *torch.autograd.grad(y, wanted, g)])
    for own, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_it_can_be_differentiated_twice() -> None:
    result, x, A, B = (
        random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(2, M), (2, N), (R, N), (M, R)])
    )
    A0, B0 = random(R, N, seed=4), random(M, R, seed=5)
    assert torch.autograd.gradgradcheck(
        lambda *given: add_update(*given[:2], (*given[2:], 1.5), (A0, B0, 0.5)), (result, x, A, B)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_start_is_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    result = random(T, M, dtype=dtype, seed=1)
    A, B = 1e3 * random(R, N, dtype=torch.float32), 1e3 * random(M, R, dtype=torch.float32)
    x = random(T, N, dtype=torch.float32, seed=2)
    assert torch.equal(add_update(result, x, (A, B, 0.3), (A, -B, 0.3)), result)


def test_autocast_computes_in_its_dtype_and_still_starts_at_the_base() -> None:
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4).train()
    batch = cases.batches("llama")[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
        plain = cases.build("llama").train()(**batch).loss
    assert torch.equal(loss, plain)
    loss.backward()
    layer = next(iter(adapted_layers(model).values()))
    own = layer.lora_B[ADAPTER].weight.grad
    assert own.dtype == torch.float32
    model.zero_grad()
    model(**batch).loss.backward()
    assert float((own - layer.lora_B[ADAPTER].weight.grad).norm() / own.norm()) < 0.1


@pytest.mark.parametrize("method", ["pissa", "lora"])
def test_dropout_is_on_the_adapter_alone(method: str) -> None:
    """`W_res x + s·B A dropout(x)` with the same mask, W_res = W − s·B₀A₀ written out; when not training, the base."""
    model = hubinit.initialize(cases.build("llama"), method, rank=4, lora_dropout=0.5)
    batch = cases.batches("llama")[0]
    assert torch.equal(logits(model, batch), logits(cases.build("llama"), batch))
    weights = {name: layer.get_base_layer().weight.double() for name, layer in adapted_layers(model).items()}
    A0B0 = {
        name: layer.scaling[ADAPTER] * (layer.lora_B[ADAPTER].weight.double() @ layer.lora_A[ADAPTER].weight.double())
        for name, layer in adapted_layers(model).items()
    }
    train(model)
    model.train()
    for name, layer in adapted_layers(model).items():
        x = random(5, weights[name].shape[1], dtype=torch.float32)
        torch.manual_seed(1)
        own = layer(x)
        torch.manual_seed(1)
        dropped = nn.functional.dropout(x, 0.5, training=True).double()
        A, B = layer.lora_A[ADAPTER].weight.double(), layer.lora_B[ADAPTER].weight.double()
        expected = x.double() @ (weights[name] - A0B0[name]).T + layer.scaling[ADAPTER] * dropped @ A.T @ B.T
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-4)
        torch.manual_seed(2)
        assert not torch.equal(layer(x), own)


def test_the_anchor_is_saved_without_dropout_and_the_adapter_with_it(tmp_path: Any) -> None:
    model = hubinit.initialize(cases.build("llama"), "pissa", rank=4, lora_dropout=0.25)
    assert model.peft_config[ANCHOR].lora_dropout == 0
    hubinit.save_initialized(model, tmp_path)
    loaded = hubinit.load_initialized(cases.build("llama"), tmp_path, merge_residual=False)
    assert (loaded.peft_config[ADAPTER].lora_dropout, loaded.peft_config[ANCHOR].lora_dropout) == (0.25, 0)


def test_an_adapter_without_dropout_refuses_it() -> None:
    base = cases.build("llama")
    with pytest.raises(InitialisationError, match="no dropout"):
        hubinit.initialize(base, "neat", rank=4, lora_dropout=0.1)
    assert not adapted_layers(base)
