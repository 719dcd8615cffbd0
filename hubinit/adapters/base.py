"""The base under the adapters: looking at it untouched, taking the adapters off, and refusing to save a changed one."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from hubinit.errors import HubinitError
from hubinit.models.layers import base_of


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's wrappers by the name of the layer they wrap, in the model's order."""
    return {
        name: module
        for name, module in base_of(model).named_modules()
        if isinstance(module, BaseTunerLayer) and ".base_layer" not in name
    }


def tied_layers(model: nn.Module) -> set[str]:
    """Names of the adapted layers whose weight another module of the base uses too, as a head tied to the embedding does."""
    users = Counter(id(p) for module in base_of(model).modules() for p in module.parameters(recurse=False))
    return {name for name, layer in adapted_layers(model).items() if users[id(layer.get_base_layer().weight)] > 1}


def wrappers(base: nn.Module) -> list[tuple[nn.Module, str, Any, Any]]:
    """Everything PEFT put around modules of `base`: (parent, child name, wrapper, original module)."""
    found = []
    inside: set[int] = set()
    for parent in base.modules():
        if id(parent) in inside:
            continue
        for name, child in parent.named_children():
            if isinstance(child, BaseTunerLayer):
                original = child.get_base_layer()
            elif isinstance(child, AuxiliaryTrainingWrapper):
                original = child.original_module
            else:
                continue
            inside |= {id(module) for module in child.modules()}
            found.append((parent, name, child, original))
    return found


@contextmanager
def untouched_base(model: nn.Module) -> Iterator[nn.Module]:
    """The base exactly as it was before `initialize`, for the length of a `with` block; no weight is copied.

    PEFT's wrappers are taken out of the module tree and put back afterwards, so inside the block the base can be run, or
    given to `PeftModel.from_pretrained`, as if it had just been loaded.
    """
    base = base_of(model)
    config, found = base.__dict__.pop("peft_config", None), wrappers(base)
    residuals: list[tuple[nn.Parameter, Tensor]] = []
    for parent, name, wrapper, original in found:
        parent._modules[name] = original
        if (kept := wrapper.__dict__.get("hubinit_original")) is not None:
            weight: Any = original.weight
            residuals.append((weight, weight.data))
            weight.data = kept.to(weight.device)
    try:
        yield base
    finally:
        for parent, name, wrapper, _ in found:
            parent._modules[name] = wrapper
        for weight, residual in residuals:
            weight.data = residual
        if config is not None:
            base.peft_config = config


def detach(model: nn.Module) -> nn.Module:
    """Takes all adapters off and returns the base, bit for bit as it was, ready for the next run.

    Args:
        model: a PeftModel, or the base model object that was given to `initialize` (it still holds the adapter layers).
            Trained heads (`modules_to_save`) are dropped with the adapter; which parameters require gradients is restored.
    """
    base = base_of(model)
    for name, layer in adapted_layers(base).items():
        if getattr(layer, "merged", False):
            raise HubinitError(
                f"{name} has its adapter merged into the base: call unmerge_adapter() first, or load the base again."
            )
        if (kept := layer.__dict__.get("hubinit_original")) is not None:
            layer.get_base_layer().weight.data.copy_(kept)
    strip(base)
    base.__dict__.pop("save_pretrained", None)
    trainable = base.__dict__.pop("hubinit_trainable", None)
    if trainable is not None:
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(name in trainable)
    return base


def strip(base: nn.Module) -> None:
    """Takes PEFT's wrappers out of `base`; weights stay as they are."""
    for parent, name, _, original in wrappers(base):
        parent._modules[name] = original
    base.__dict__.pop("peft_config", None)


def remember_trainable(base: nn.Module) -> None:
    """Notes which parameters require gradients, for `detach`; PEFT freezes them all."""
    base.__dict__["hubinit_trainable"] = frozenset(
        name for name, parameter in base.named_parameters() if parameter.requires_grad
    )


def refuse_to_save(base: nn.Module) -> None:
    """Makes `base.save_pretrained` raise: its weights are a residual, not the original model."""
    base.__dict__["save_pretrained"] = _refuse


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise HubinitError(
        "this base holds a residual (W − s·B₀A₀), not the original weights: call hubinit.detach(model) first, "
        "or save the adapter with hubinit.export."
    )


def is_residual(model: nn.Module) -> bool:
    """Whether the base's weights are a residual, not the original model's."""
    return base_of(model).__dict__.get("save_pretrained") is _refuse
