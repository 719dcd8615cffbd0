"""The first update beside the full gradient: does the adapter's first step go where full fine-tuning would go?

G is the gradient of the loss of the first optimiser step with respect to the weights W (m, n) of the adapted layers, as if they
were trained: `G = Σ g xᵀ` over all tokens of all micro batches, for the input x (n) of a layer and the gradient g (m) of its
output.
ΔW is the change of the effective weight in that step, `s·(B₁A₁ − B₀A₀)`. The measure is, over all adapted layers together,

    cos(ΔW, −G) = −Σ⟨ΔW, G⟩ / (√Σ‖ΔW‖² · √Σ‖G‖²).

It is the question of LoRA-GA (Wang et al. 2024, "align the gradients") and LoRA-One, asked of any start and any optimiser. A step
whose learning rate is 0, as the first of a warm-up, changes nothing: the next one counts, which begins at the same weights.

x and g are tapped in the pass that trains, so nothing runs twice, and no number of the training changes. What it costs is the
product of each G, for one step, and 4 bytes per adapted weight of the base in the computer's memory until the step is done.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback

from hubinit.adapters.anchor import ADAPTER, Anchored
from hubinit.records import FirstUpdate
from hubinit.training.drift import factor_layers, factors_of


class WatchFirstUpdate(TrainerCallback):  # type: ignore[misc]
    """Measures the first update of the layers whose effective weight is W + s·B A.

    Attributes:
        measured: the first update of all of them; None while there is not one.
        cosines: of each layer by itself, by its name; a layer whose update or gradient is zero has none.
        reason: why nothing was measured.
    """

    def __init__(self, model: Any) -> None:
        self.layers = {name: layer for name, layer in factor_layers(model).items() if _adds_product(layer)}
        self.measured: FirstUpdate | None = None
        self.cosines: dict[str, float] = {}
        self.reason: str | None = None
        self._start = factors_of(self.layers)
        self._gradients: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint, if there is one, has been loaded."""
        if not self.layers:
            self.reason = "this adapter's update is not a product s·B A"
        elif state.global_step:
            self.reason = "the run went on from a checkpoint"
        elif dist.is_initialized() and dist.get_world_size() > 1:
            self.reason = "each process of a distributed run sees only its part of the first batch"
        else:
            self._handles = [
                layer.register_forward_hook(partial(self._tap, name)) for name, layer in self.layers.items()
            ]

    def _tap(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._add, name, args[0].detach()))

    @torch.no_grad()
    def _add(self, name: str, x: Tensor, gradient: Tensor) -> None:
        """Adds `g xᵀ` of one pass; x: (…, n), gradient: (…, m)."""
        rows = gradient.reshape(-1, gradient.shape[-1]).float()  # (T, m)
        G = rows.T @ x.reshape(-1, x.shape[-1]).float()  # (m, n)
        self._gradients[name] = self._gradients[name].add_(G.cpu()) if name in self._gradients else G.cpu()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer right after a step of the optimiser."""
        if not self._handles:
            return
        now = factors_of(self.layers)
        changes = {name: self._start[name].change_to(now[name]) for name in self._gradients}
        norms = {name: change.norm for name, change in changes.items()}
        if not any(norms.values()):
            self._gradients.clear()
            return
        sizes = {name: float(gradient.double().norm()) for name, gradient in self._gradients.items()}
        dots = {name: changes[name].dot(gradient) for name, gradient in self._gradients.items()}
        self.cosines = {name: -dots[name] / (norms[name] * sizes[name]) for name in dots if norms[name] * sizes[name]}
        update, gradient = (sum(value**2 for value in part.values()) ** 0.5 for part in (norms, sizes))
        if gradient:
            cosine = -sum(dots.values()) / (update * gradient)
            self.measured = FirstUpdate(
                step=state.global_step + 1, cosine=cosine, update_norm=update, gradient_norm=gradient
            )
        else:
            self.reason = "the full gradient of the first step is 0"
        self._release()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after the last step."""
        if self._handles:
            self.reason = "no step changed a factor"
        self._release()

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._gradients.clear()


def _adds_product(layer: Any) -> bool:
    """Whether the layer's effective weight is W + s·B A, but for a constant; DoRA's and KaSA's are not."""
    variant = layer.lora_variant.get(ADAPTER)
    return variant is None or (isinstance(variant, Anchored) and variant.inner is None)
