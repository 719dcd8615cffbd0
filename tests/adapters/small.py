"""Tiny methods and helpers for the tests of adapters and gates."""

from typing import Any

import torch
from torch import Tensor

from hubinit.methods.spec import Factors, Layer, Method, MethodOptions


def _random(scale: float) -> Any:
    def factors(layer: Layer, options: MethodOptions) -> Factors:
        m, n = layer.weight.shape
        A = scale * torch.randn(layer.rank, n, generator=layer.generator).to(layer.weight)
        B = scale * torch.randn(m, layer.rank, generator=layer.generator).to(layer.weight)
        return Factors(A, B, {"scale": scale})

    return factors


def _uneven(layer: Layer, options: MethodOptions) -> list[float]:
    worth = float(torch.rand((), generator=layer.generator))
    bound = min(2 * layer.rank, *layer.weight.shape)
    return [worth * 0.8**position for position in range(bound)]  # the least worthy module is left out


def method(name: str, scale: float, **fields: Any) -> Method:
    return Method(name=name, title=name, source="", **{"start": "keep", "factors": _random(scale), **fields})


RESIDUAL = method("residual", 0.3, anchored=True)
MINUTE = method("minute", 1e-4, anchored=True)  # as small as FILet's factors can be
SHIFT = method("shift", 0.1, start="shift")
UNEVEN = method("uneven", 0.3, anchored=True, scores=_uneven)


def train(model: Any, seed: int = 0, size: float = 0.05) -> None:
    """Stands for training: moves everything that may be trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    training = model.training
    output: Tensor = model.eval()(**batch).logits.double()
    model.train(training)
    return output


def deviation(measured: Tensor, reference: Tensor) -> float:
    return float((measured - reference).norm() / reference.norm())


def snapshot(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model: Any, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
