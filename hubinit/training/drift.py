"""How far training moves an adapter: the factors at the start against those at the end, layer by layer.

With ΔW = s·(B₁A₁ − B₀A₀), from the start (index 0) to the end (index 1):

- `input_angle`, `output_angle`: the mean principal angle between the row spaces of A₀ and A₁, and between the column spaces of
  B₀ and B₁ (Björck and Golub 1973). 0°: the same space; 90°: orthogonal. A start with B₀ = 0 has no column space.
- `input_inside`, `output_inside`: the share of ‖ΔW‖² (Frobenius) that the projector onto the row space of A₀ (from the right), or
  onto the column space of B₀ (from the left), keeps.
- `update_norm`: ‖ΔW‖. Where the adapter is more than a product (DoRA's magnitude, KaSA's diagonal, LoRA-Dash's directions), it is
  that of the product alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import adapted_layers
from hubinit.numerics.factored import Factored, change, mean_angle, share_inside
from hubinit.records import Drift


@dataclass(frozen=True)
class Factors:
    """A (r, n), B (m, r) and s of one layer, at one time."""

    A: Tensor
    B: Tensor
    s: float

    def change_to(self, later: "Factors") -> Factored:
        """`s·(B A − B₀A₀)` from here to `later`."""
        return change(self.A, self.B, later.A, later.B, self.s)


def factor_layers(model: Any) -> dict[str, Any]:
    """The adapted layers whose trained adapter holds two matrices A and B; none of an adapter that is not a LoRA."""
    layers = adapted_layers(model).items()
    return {name: layer for name, layer in layers if isinstance(layer, LoraLayer) and _is_product(layer)}


def _is_product(layer: Any) -> bool:
    A = getattr(layer.lora_A[ADAPTER], "weight", None) if ADAPTER in layer.lora_A else None  # AdaLoRA's is no module
    return A is not None and A.ndim == 2


def factors_of(layers: Mapping[str, Any]) -> dict[str, Factors]:
    """A copy of the factors as they are now, on the CPU."""
    return {
        name: Factors(
            layer.lora_A[ADAPTER].weight.detach().to("cpu", copy=True),
            layer.lora_B[ADAPTER].weight.detach().to("cpu", copy=True),
            float(layer.scaling[ADAPTER]),
        )
        for name, layer in layers.items()
    }


def measure_drift(start: Mapping[str, Factors], end: Mapping[str, Factors]) -> dict[str, Drift]:
    """The drift of each layer."""
    return {name: layer_drift(before, end[name]) for name, before in start.items()}


def layer_drift(start: Factors, end: Factors) -> Drift:
    """The drift of one layer, as the module's text defines it."""
    moved = start.change_to(end)
    return Drift(
        input_angle=mean_angle(start.A.T, end.A.T),
        output_angle=mean_angle(start.B, end.B),
        input_inside=share_inside(moved, start.A.T),
        output_inside=share_inside(Factored(moved.R.T, moved.L.T), start.B),
        update_norm=moved.norm,
    )


def mean_drift(layers: Mapping[str, Drift]) -> Drift | None:
    """The mean over layers of each number that they have, and ‖ΔW‖ over all of them; None without layers."""
    if not layers:
        return None
    means = {}
    for name in Drift.model_fields.keys() - {"update_norm"}:
        values = [value for layer in layers.values() if (value := getattr(layer, name)) is not None]
        means[name] = fmean(values) if values else None
    return Drift(**means, update_norm=sum(layer.update_norm**2 for layer in layers.values()) ** 0.5)
