"""The anchor: the frozen adapter (A₀, −B₀) that keeps a residual method's start at the untouched base.

A residual method trains B A while the layer must start at W: it computes `W x + s·(B A − B₀A₀) x`. Two *active* PEFT adapters
would say the same, but are fragile: `Trainer(resume_from_checkpoint=…)`, `model.set_adapter("default")` and leaving
`disable_adapter()` switch the second one off or make it trainable. So the anchor is an ordinary PEFT adapter that stays
*inactive* (hence frozen), and the trained adapter carries a `LoraVariant` that adds the anchor's output to its own. Whatever
switches `default` on, off, or merges it, does so with its anchor; `save_pretrained` and the Trainer's checkpoints write both
(the root and `anchor/`), which is the layout that `load_initialized` and the two printed lines of plain PEFT read.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from hubinit.adapters.base import adapted_layers, refuse_to_save, tied_layers
from hubinit.adapters.mark import name_mark, read_mark, set_mark
from hubinit.adapters.product import add_update
from hubinit.models.layers import base_of

ADAPTER = "default"
ANCHOR = "anchor"


class Anchored(LoraVariant):  # type: ignore[misc]
    """A LoRA layer whose update is `s·(B A − B₀A₀)`; with an inner variant (KaSA), the inner update minus `s·B₀A₀`.

    At step 0 the update is exactly zero in every dtype (see `hubinit.adapters.product`). Dropout acts on `B A x` alone, as if
    the base held the residual W − s·B₀A₀: the anchor always sees the whole x.
    """

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def supports_lora_conversion(self) -> bool:
        """False: PEFT's conversion would drop the anchor; `hubinit.export` keeps it."""
        return False

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """`result + s·B A dropout(x) − s·B₀A₀ x`; x: (…, n), result: (…, m)."""
        if self.inner is not None:
            result = self.inner.forward(module, active_adapter=active_adapter, x=x, result=result, **kwargs)
            return result if self._is_active(module) else result + _output(module, ANCHOR, x)
        dropout = module.lora_dropout[active_adapter]
        if self._is_active(module):
            return result + _output(module, active_adapter, dropout(x))
        dropped = module.training and isinstance(dropout, nn.Dropout)
        plain = (
            type(module.lora_A[active_adapter]) is nn.Linear
        )  # FSDP's wrappers gather weights in their own forward only
        if dropped or not plain or module.r[active_adapter] != module.r[ANCHOR]:
            return result + (_output(module, active_adapter, dropout(x)) + _output(module, ANCHOR, x))
        return add_update(result, x, _factors(module, active_adapter), _factors(module, ANCHOR))

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight with adapter and anchor added, rounded once."""
        return (orig_weight.float() + self._delta(module, active_adapter)).to(orig_weight.dtype)

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """As `merge_safe`, in place."""
        orig_weight.data = self.merge_safe(module, active_adapter, orig_weight.data)

    def unmerge(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight with adapter and anchor taken out again, up to rounding."""
        return (orig_weight.float() - self._delta(module, active_adapter)).to(orig_weight.dtype)

    def _is_active(self, module: Any) -> bool:
        """Someone made the anchor an active adapter of its own; it must not count twice."""
        return ANCHOR in module.active_adapters

    def _delta(self, module: Any, adapter: str) -> Tensor:
        """The whole update in float32, in the base weight's storage layout."""
        delta: Tensor
        if self.inner is None:
            delta = module.get_delta_weight(adapter)
        else:  # the inner variant's own merge into a weight of zeros
            delta = self.inner.merge_safe(module, adapter, torch.zeros_like(module.get_delta_weight(adapter)))
        if not self._is_active(module):
            delta = delta + module.get_delta_weight(ANCHOR)
        return delta


def _factors(module: Any, adapter: str) -> tuple[Tensor, Tensor, float]:
    """A (r, n), B (m, r) and s of one adapter."""
    return module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.scaling[adapter]


def _output(module: Any, adapter: str, x: Tensor) -> Tensor:
    """`s·B A x` of one adapter; x: (…, n) -> (…, m)."""
    output: Tensor = module.lora_B[adapter](module.lora_A[adapter](x)) * module.scaling[adapter]
    return output


def has_anchor(model: Any) -> bool:
    """Whether the PeftModel holds an anchor, in use beside the adapter or already folded into the base."""
    return ANCHOR in model.peft_config


def add_anchor(peft_model: Any, factors: dict[str, tuple[Tensor, Tensor]], config: LoraConfig) -> None:
    """Adds the frozen anchor to a PeftModel and makes its trained adapter carry it.

    Args:
        peft_model: has the adapter `default` on (at least) the modules of `factors`.
        factors: name → (A (r, n), B (m, r)) of the anchor itself, i.e. already with its sign.
        config: the anchor's configuration; its scaling applies to the factors.
    """
    config = anchor_config(config, factors)
    own = peft_model.peft_config[ADAPTER]
    kasa = own.__dict__.pop(
        "kasa_config", None
    )  # PEFT allows KaSA no neighbour, because it rewrites the base; not here
    try:
        peft_model.add_adapter(ANCHOR, config)
    finally:
        if kasa is not None:
            own.kasa_config = kasa
    layers = adapted_layers(peft_model)
    for name, (A, B) in factors.items():
        set_factors(layers[name], ANCHOR, A, B)
        carry_anchor(layers[name])
    if kasa is None:  # PEFT rebuilds KaSA's anchor from its configuration, wherever the adapter goes
        mark = read_mark(config) or name_mark(factors, {name: layers[name].scaling[ANCHOR] for name in factors})
        set_mark(own, mark, min(factors))
        set_mark(config, mark, min(factors))


def anchor_config(config: LoraConfig, names: Iterable[str]) -> LoraConfig:
    """A copy of a configuration for an anchor on the modules `names`: nothing but the factors."""
    config = copy.deepcopy(config)
    config.target_modules, config.modules_to_save, config.inference_mode = list(names), None, True
    config.lora_dropout = 0.0
    return config


def set_factors(layer: Any, adapter: str, A: Tensor, B: Tensor) -> None:
    """Copies A (r, n) and B (m, r) into one adapter of a LoRA layer."""
    with torch.no_grad():
        layer.lora_A[adapter].weight.copy_(A)
        layer.lora_B[adapter].weight.copy_(B)


def carry_anchor(layer: Any) -> None:
    """Makes the trained adapter of a LoRA layer carry the anchor that is already in the layer."""
    if not isinstance(layer.lora_variant.get(ADAPTER), Anchored):
        layer.lora_variant[ADAPTER] = Anchored(layer.lora_variant.get(ADAPTER))


def fold_anchors(peft_model: Any) -> None:
    """Adds the anchors to their float32 base weights; the adapter then stands alone and the base refuses to be saved.

    A weight that another module uses too (a head tied to the embedding) keeps its anchor beside it: folded, the anchor would
    change that module as well.
    """
    tied = tied_layers(peft_model)
    folded = False
    for name, layer in adapted_layers(peft_model).items():
        if ANCHOR not in layer.lora_A or name in tied:
            continue
        weight = layer.get_base_layer().weight
        layer.hubinit_original = weight.detach().to("cpu", copy=True)  # W - s·B₀A₀ + s·B₀A₀ is not W in floating point
        weight.data += layer.get_delta_weight(ANCHOR)
        inner = layer.lora_variant.pop(ADAPTER).inner
        if inner is not None:
            layer.lora_variant[ADAPTER] = inner
        folded = True
    if folded:
        refuse_to_save(base_of(peft_model))
