"""What a model without weights shows of a run: what is trained, what autograd keeps, and which layers share their input.

The model runs on the meta device as it is trained, with its adapter and optimiser, and what it saves for the backward pass is
added up. Attention counts as a fused kernel does: queries, keys, values and output.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AttentionInterface

from hubinit import adapters, methods
from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import remember_trainable
from hubinit.adapters.configs import classification_heads, lora_config
from hubinit.adapters.freezing import freeze, frozen_factors
from hubinit.adapters.passthrough import configure
from hubinit.errors import InitialisationError
from hubinit.models.kinds import KINDS
from hubinit.models.layers import base_of, linear_layers, shape_of, target_layers
from hubinit.specs import FULL, NO_ADAPTER, MethodSpec, RunSpec
from hubinit.training import optimisers

FUSED = "hubinit-fused"


@dataclass(frozen=True)
class Seen:
    """What one forward pass of the model that is trained showed.

    Attributes:
        trainable: parameters that are trained.
        adapter: bytes of the adapter, and of copies of heads.
        kept: bytes that autograd keeps for the backward pass.
        shares: layer → the first layer with the same input.
    """

    trainable: int
    adapter: int
    kept: int
    shares: dict[str, str]


def twin_of(spec: RunSpec) -> RunSpec:
    """The run of plain LoRA with the same shapes, where there is one: it is observed once for all such methods."""
    twin = spec.model_copy(update={"calibration": None})
    if spec.method.name in NO_ADAPTER:
        return twin
    method = methods.get(spec.method.name)
    plain = method.factors is not None and not method.lora_kwargs and method.train_b
    return twin.model_copy(update={"method": MethodSpec(name="lora")}) if plain else twin


def observe(spec: RunSpec, base: Any) -> Seen:
    """Runs the model as it is trained, on the meta device, and leaves the base as it was."""
    recipe = spec.recipe
    assert recipe is not None
    plain = sum(parameter.nbytes for parameter in base.parameters())
    kept, shares = None, dict[str, str]()
    with as_trained(spec, base) as model:
        trained = count_trained(model)
        adapter = sum(parameter.nbytes for parameter in model.parameters()) - plain
        with suppress(RuntimeError):
            kept, shares = forward(model, spec, recipe.micro_batch_size, recipe.max_length)
    if kept is None:  # KaSA's layers look at the weights first; what they keep is what LoRA's do
        lora = MethodSpec(name="lora")
        if spec.method == lora:
            raise InitialisationError(f"{spec.model.id} does not run without weights.")
        alike = observe(spec.model_copy(update={"method": lora}), base)
        kept, shares = alike.kept, alike.shares
    return Seen(trained, adapter, kept, shares)


@contextmanager
def as_trained(spec: RunSpec, base: Any) -> Iterator[Any]:
    """The model with its adapter and with what its optimiser freezes; the base is left as it was."""
    dtype = base.dtype
    assert spec.recipe is not None
    try:
        model = attach(spec, base)
        optimisers.get(spec.recipe.optimiser).build(model, 1e-4, spec.recipe)  # the rate is of no account
        yield model
    finally:
        adapters.detach(base)
        base.to(dtype).eval().requires_grad_(True)


def count_trained(model: Any) -> int:
    """Parameters of a model that require a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def directions(spec: RunSpec, base: nn.Module) -> int:
    """Coefficients that are trained beside the factors (LoRA-Dash)."""
    method = methods.get(spec.method.name) if spec.method.name not in NO_ADAPTER else None
    if method is None or method.directions is None:
        return 0
    wanted = getattr(methods.parse_options(method, spec.method.options), "directions", 0)
    return sum(min(wanted, *shape_of(layer)) for layer in target_layers(base, spec.target_modules).values())


def attach(spec: RunSpec, base: Any) -> Any:
    """The base as the run trains it: with an adapter of the method's shapes, in the types that it has."""
    name = spec.method.name
    if name == FULL:
        return base.train()
    heads = classification_heads(base)
    if name == "none":  # a linear probe
        for parameter_name, parameter in base.named_parameters():
            parameter.requires_grad_(parameter_name.split(".")[0] in heads)
        return base.train()
    method = methods.get(name)
    layers = target_layers(base, spec.target_modules)
    dropout = spec.recipe.lora_dropout if spec.recipe else 0.0
    config: Any
    if method.peft_config is not None:
        options = methods.parse_options(method, spec.method.options)
        scale = {"rank": spec.rank, "alpha": spec.alpha, "rslora": spec.rslora}
        config = configure(base, method, options, layers, heads, **scale, dropout=dropout)  # type: ignore[arg-type]
    else:
        ranks = dict.fromkeys(layers, spec.rank)
        config = lora_config(base, ranks, 1.0, spec.rslora, heads, lora_dropout=dropout, **method.lora_kwargs)
    remember_trainable(base)
    model = get_peft_model(base, config, adapter_name=ADAPTER)
    freeze(model, frozen_factors(method))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def forward(model: Any, spec: RunSpec, batch: int, length: int) -> tuple[int, dict[str, str]]:
    """One forward pass on the meta device: bytes kept for the backward pass, and the layers that share their input."""
    base = base_of(model)
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()
    weights = {id(parameter) for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Kept:
        found = Kept(tensor, counts=id(tensor) not in weights and id(tensor._base) not in weights)
        kept.add(found)
        return found

    seen: list[tuple[str, Tensor]] = []  # held, so that no id is used twice
    layers = linear_layers(base)
    handles = [layer.register_forward_pre_hook(partial(_note, seen, name)) for name, layer in layers.items()]
    try:
        with fused_attention(base.config), torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found.tensor):
            output = model(**inputs(base, spec, batch, length))
        storages = {one.storage: one.bytes for one in kept if one.counts}
        del output
    finally:
        for handle in handles:
            handle.remove()
    owners: dict[int, str] = {}
    return sum(storages.values()), {name: owners.setdefault(id(x), name) for name, x in seen}


class Kept:
    """A tensor that autograd keeps, for as long as it does."""

    def __init__(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.counts, self.storage, self.bytes = tensor, counts, storage._cdata, storage.nbytes()


def _note(seen: list[tuple[str, Tensor]], name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
    seen.append((name, arguments[0]))


def inputs(base: Any, spec: RunSpec, batch: int, length: int) -> dict[str, Any]:
    """A micro batch without content. Of the logits one position is computed: `logit_bytes` counts them."""
    config = base.config
    if KINDS[spec.model.kind].labelled:
        size = 224 if config.model_type.startswith("dinov2") else config.image_size  # its processor crops to 224
        shape = (batch, config.num_channels, size, size)
        return {"pixel_values": torch.zeros(shape, device="meta", dtype=base.dtype)}  # (B, C, H, W)
    ids = torch.zeros((batch, length), dtype=torch.long, device="meta")  # (B, S)
    return {"input_ids": ids, "logits_to_keep": 1, "use_cache": False}


@contextmanager
def fused_attention(config: Any) -> Iterator[None]:
    """Lets the model attend as a fused kernel does; PyTorch's own choice on the meta device keeps all S × S scores."""
    AttentionInterface.register(FUSED, attend)
    before = config._attn_implementation
    config._attn_implementation = FUSED
    try:
        yield
    finally:
        config._attn_implementation = before


class Attention(torch.autograd.Function):
    """Keeps what fused attention keeps, and computes nothing."""

    @staticmethod
    def forward(context: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """All (B, heads, S, d); the keys and values may have fewer heads."""
        output = torch.empty_like(queries)  # (B, heads, S, d)
        context.save_for_backward(queries, keys, values, output)
        return output


def attend(
    module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, *mask: Any, **_: Any
) -> tuple[Tensor, None]:
    """Attention with transformers' arguments; (B, S, heads, d)."""
    output: Tensor = Attention.apply(queries, keys, values)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None
