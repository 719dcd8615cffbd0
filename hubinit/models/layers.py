"""Which layers of a model an initialisation touches, and their weights in one layout.

Layers are found by type (`nn.Linear` and transformers' `Conv1D`), never by name: names change between transformers
versions. Everywhere else in hubinit a weight is `(m, n)` = (out_features, in_features), also for `Conv1D`, which stores
the transpose.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hubinit.errors import InitialisationError, nearest

# Class names of quantised linear layers (bitsandbytes, GPTQ, AWQ, HQQ, AQLM, EETQ), so that no package is imported.
QUANTISED = re.compile(
    r"Linear4bit|Linear8bitLt|.*QuantLinear|WQLinear.*|HQQLinear|QuantizedLinear|EetqLinear|FbgemmFp8Linear"
)
# `weight` can be restored for these two; for the rest only methods that never read the weight can work.
READABLE = ("Linear4bit", "Linear8bitLt")
# Why `all-linear` leaves a module out.
EXPERTS = "mixture-of-experts weights are 3-D parameters, not linear layers"
GATES = "gates (one output, or one per expert) are too narrow for a low rank"


def is_conv1d(module: nn.Module) -> bool:
    """True for transformers' `Conv1D` (GPT-2), whose weight is stored as (n, m)."""
    return isinstance(module, Conv1D)


def is_quantised(module: nn.Module) -> bool:
    """True for a linear layer whose stored weight is a quantisation code, recognised by its class name."""
    return QUANTISED.fullmatch(type(module).__name__) is not None


def is_linear(module: nn.Module) -> bool:
    """True for every layer `y = W x (+ bias)` that a LoRA adapter can be attached to."""
    return isinstance(module, nn.Linear | Conv1D) or is_quantised(module)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(m, n) = (out_features, in_features) of a linear layer."""
    if is_conv1d(module):
        n, m = module.weight.shape  # type: ignore[misc]
        return int(m), int(n)
    m_out = getattr(module, "out_features", None) or getattr(module, "outfeatures", None)
    n_in = getattr(module, "in_features", None) or getattr(module, "infeatures", None)
    return int(m_out), int(n_in)  # type: ignore[arg-type]


def weight_of(module: nn.Module, name: str = "") -> Tensor:
    """The weight `(m, n)` in float32 (float64 stays), detached: a view where nothing had to be converted, else a copy.

    Args:
        module: a linear layer; bitsandbytes' 4- and 8-bit weights are dequantised.
        name: its name, for the error message.

    Raises:
        InitialisationError: the weight is quantised in a way that cannot be read back.
    """
    weight = getattr(module, "weight", None)
    if is_quantised(module) and (not isinstance(weight, Tensor) or not weight.is_floating_point()):
        weight = _dequantise(module, name)
    assert isinstance(weight, Tensor)
    if is_conv1d(module):
        weight = weight.T  # (n, m) -> (m, n)
    return weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """Where a layer's weight is."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias `(m,)` of a linear layer, detached, or None."""
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def _dequantise(module: nn.Module, name: str) -> Tensor:
    kind = type(module).__name__
    if kind in READABLE:
        try:
            from peft.utils.integrations import dequantize_module_weight

            weight: Tensor = dequantize_module_weight(module)
            return weight
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            reason = f" ({error})"
    else:
        reason = ""
    raise InitialisationError(
        f"the weight of {name or kind} is quantised ({kind}) and cannot be read{reason}: load the base unquantised, "
        "or use a method that never reads the weight (lora, eva, lora-ga, lora-one)."
    )


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by its name in the base model; a layer wrapped by a PEFT tuner is given by its base layer."""
    return {name: module for name, module in _walk(base_of(model)) if is_linear(module)}


def target_layers(model: nn.Module, target_modules: str | Sequence[str] = "all-linear") -> dict[str, nn.Module]:
    """The layers to adapt, in the model's order.

    Args:
        model: a transformers model, any `nn.Module`, or a PeftModel (names are then those of its base).
        target_modules: `"all-linear"`: every linear layer of the base transformer, without the output head
            (language-model head, classifier: those belong to `modules_to_save`), tied embeddings, and what `left_out`
            names (warned about). Another string is a regular expression for the whole name; a sequence holds full names
            or their endings (`"q_proj"`), as in PEFT. What is named so is taken even when it is a head or a gate.

    Returns:
        Module name → layer; never empty.

    Raises:
        InitialisationError: nothing matches, or one of several names; the message has the nearest layers.
    """
    layers = linear_layers(model)
    if target_modules == "all-linear":
        heads, excluded = _head_modules(base_of(model)), left_out(model)
        found = {name: module for name, module in layers.items() if id(module) not in heads and name not in excluded}
        for reason in dict.fromkeys(excluded.values()):
            names = [name for name, other in excluded.items() if other == reason]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            warnings.warn(f"all-linear leaves out {names[0]}{more}: {reason}.", stacklevel=2)
    elif isinstance(target_modules, str):
        found = {name: module for name, module in layers.items() if re.fullmatch(target_modules, name)}
    else:
        matches = {
            suffix: [name for name in layers if name == suffix or name.endswith("." + suffix)]
            for suffix in target_modules
        }
        if missing := [suffix for suffix, names in matches.items() if not names]:
            raise InitialisationError(_no_match(missing, list(layers)))
        wanted = {name for names in matches.values() for name in names}
        found = {name: module for name, module in layers.items() if name in wanted}
    if not found:
        raise InitialisationError(_no_match(target_modules, list(layers)))
    return found


def left_out(model: nn.Module) -> dict[str, str]:
    """What `"all-linear"` leaves out beside the heads: module name → reason, in the model's order.

    Mixture-of-experts weights are 3-D parameters, one matrix per expert, without a linear layer. The router beside them (one
    output per expert) and every linear layer with a single output or input have no use for a low rank.
    """
    base = base_of(model)
    heads = _head_modules(base)
    experts = {
        name: parameter.shape[0]
        for name, module in _walk(base)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] > 1 and not isinstance(module, nn.modules.conv._ConvNd)
    }
    counts = {name.rpartition(".")[0]: count for name, count in experts.items()}  # of the block that holds the experts
    found: dict[str, str] = {}
    for name, module in _walk(base):
        if name in experts:
            found[name] = EXPERTS
        elif is_linear(module) and id(module) not in heads:
            m, n = shape_of(module)
            routed = {count for block, count in counts.items() if name.startswith(block + ".")}
            if min(m, n) == 1 or m in routed:
                found[name] = GATES
    return found


def output_heads(model: nn.Module) -> list[str]:
    """Names of the linear layers of the model's output head, or tied to an embedding."""
    heads = _head_modules(base_of(model))
    return [name for name, module in linear_layers(model).items() if id(module) in heads]


def _no_match(target_modules: str | Iterable[str], names: list[str]) -> str:
    if not names:
        return "the model has no linear layer (nn.Linear or Conv1D) to adapt."
    endings = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    if target_modules == "all-linear":
        return f"every linear layer of this model is an output head or a gate ({', '.join(endings)}): name the targets instead."
    if len(wanted) == 1 and isinstance(target_modules, str) and wanted[0] in endings:
        return (
            f"target_modules={wanted[0]!r} is a regular expression for whole names and matches none: "
            f"write [{wanted[0]!r}] to match the ending."
        )
    hints = "; ".join(f"{target!r}: {nearest(target, endings)}" for target in wanted[:4])
    return f"target_modules matches no linear layer of this model. {hints}"


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model under a PeftModel (still holding the adapter layers), or the model itself."""
    inner = getattr(model, "get_base_model", None)
    base = inner() if callable(inner) else model
    assert isinstance(base, nn.Module)
    return base


def _walk(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`named_modules`, where a PEFT layer stands for its base layer (`q_proj`, not `q_proj.base_layer`)."""
    for child_name, child in model.named_children():
        name = f"{prefix}{child_name}"
        if isinstance(child, BaseTunerLayer):
            yield name, child.get_base_layer()
        else:
            yield name, child
            yield from _walk(child, name + ".")


def _head_modules(model: nn.Module) -> set[int]:
    """Ids of the modules that are the model's output head, or share a weight with an embedding."""
    heads: set[int] = set()
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in embeddings:
            heads.add(id(module))
    if not isinstance(model, PreTrainedModel):
        return heads
    try:
        output = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        output = None
    if isinstance(output, nn.Module):
        heads |= {id(module) for module in output.modules()}
    # A task model wraps its transformer in `base_model`; what stands beside it is the head. A model that is its own
    # base keeps a head as a linear layer of its own (CLIP's `classifier`, `visual_projection`), never as a block.
    inside = {id(module) for module in model.base_model.modules()} if model.base_model is not model else None
    for _, child in model.named_children():
        if inside is None and isinstance(child, nn.Linear):
            heads.add(id(child))
        elif inside is not None:
            heads |= {id(module) for module in child.modules() if id(module) not in inside}
    return heads
