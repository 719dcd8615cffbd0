"""Directions beside a LoRA: `W x + s·B A x + U diag(d) Vᵀ x`, with U and V fixed in the middle of training (LoRA-Dash).

The coefficients d are parameters from the start, so that an optimiser holds them. They take no part, and get no gradient, until
the directions are chosen; then the layer's adapter gets the variant `Directed`. U and V are buffers, which a checkpoint keeps.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from hubinit.adapters.anchor import ADAPTER, ExactMerge
from hubinit.adapters.base import adapted_layers
from hubinit.models.layers import is_conv1d, shape_of, weight_of

CHILD = "hubinit_directions"  # name of the module in each adapted layer; not `lora_`, which PEFT would save
Choose = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]  # W, A, B, s ─► U (m, k), Vᵀ (k, n)


class Directions(nn.Module):
    """U (m, k), Vᵀ (k, n), and the trained coefficients d (k,), all zero until the directions are chosen."""

    U: Tensor
    Vt: Tensor

    def __init__(self, m: int, n: int, k: int, like: Tensor) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(like.new_zeros(k))
        self.register_buffer("U", like.new_zeros(m, k))
        self.register_buffer("Vt", like.new_zeros(k, n))

    def forward(self, x: Tensor) -> Tensor:
        """`U diag(d) Vᵀ x`; x: (…, n) -> (…, m)."""
        output: Tensor = ((x @ self.Vt.T) * self.coefficients) @ self.U.T
        return output


class Directed(ExactMerge):
    """A LoRA layer whose update is `s·B A + U diag(d) Vᵀ`; the released code too drops the input of both by itself."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """`result + s·B A dropout(x) + U diag(d) Vᵀ dropout(x)`; x: (…, n), result: (…, m)."""
        dropout = module.lora_dropout[active_adapter]
        own = module.lora_B[active_adapter](module.lora_A[active_adapter](dropout(x))) * module.scaling[active_adapter]
        output: Tensor = result + own + getattr(module, CHILD)(dropout(x))
        return output

    def delta(self, module: Any, adapter: str) -> Tensor:
        """The whole update, in the base weight's storage layout."""
        U, coefficients, Vt = directions_of(module)
        added = (U * coefficients) @ Vt  # (m, n)
        delta: Tensor = module.get_delta_weight(adapter)
        return delta + (added.T if is_conv1d(module.get_base_layer()) else added)


def directions_of(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), d (k,) and Vᵀ (k, n) of an adapted layer."""
    found = getattr(layer, CHILD)
    return found.U, found.coefficients, found.Vt


def add_directions(model: PeftModel, count: int) -> None:
    """Gives each adapted layer room for `count` directions (at most min(m, n)), which take no part yet."""
    for layer in adapted_layers(model).values():
        m, n = shape_of(layer.get_base_layer())
        layer.add_module(CHILD, Directions(m, n, min(count, m, n), layer.lora_A[ADAPTER].weight))


@torch.no_grad()
def choose_directions(model: PeftModel, choose: Choose) -> None:
    """Chooses the directions of each layer by its factors as they are now, and puts them to use."""
    for name, layer in adapted_layers(model).items():
        weight = weight_of(layer.get_base_layer(), name)  # (m, n)
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight  # (r, n), (m, r)
        U, Vt = choose(weight, A, B, layer.scaling[ADAPTER])  # (m, k), (k, n)
        found = getattr(layer, CHILD)
        found.U.copy_(U)
        found.Vt.copy_(Vt)
    use_directions(model)


def use_directions(model: PeftModel) -> None:
    """From now on the directions are part of the adapter."""
    for layer in adapted_layers(model).values():
        layer.lora_variant[ADAPTER] = Directed()
