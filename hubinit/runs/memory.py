"""What a run will hold in memory: counted on its model without weights, before anything is downloaded.

- **Weights**: of the base in its type (NF4: half a byte, and the scales of blocks of 64, arXiv 2305.14314), and of the adapter.
- **Gradients and optimiser**: float32, and two moments of Adam, for what is trained.
- **Activations**: what autograd keeps of one micro batch of full length. The model runs on the meta device, and what it saves
  for the backward pass is added up. Attention counts as a fused kernel does: queries, keys, values and output. With gradient
  checkpointing: the input of each block, and what one block keeps (Chen et al., arXiv 1604.06174).
- **Logits**: of every token, with their gradients and the float32 copies of the loss.
- **Calibration**: the sums, as `hubinit.calibration.memory` plans them, with the activations of its own batch.

Training and calibration follow each other, so the larger one counts. Scoring is not counted: it takes smaller batches where
memory does not suffice. Texts shorter than `max_length` need less.
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
from transformers.modeling_layers import GradientCheckpointingLayer

from hubinit import adapters, methods
from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import remember_trainable
from hubinit.adapters.calibrating import statistics_of
from hubinit.adapters.configs import classification_heads, lora_config
from hubinit.adapters.freezing import freeze, frozen_factors
from hubinit.adapters.passthrough import configure
from hubinit.calibration.memory import LayerShape, plan_memory
from hubinit.calibration.shared import BATCH_SIZE
from hubinit.calibration.taps import BACKWARD
from hubinit.errors import HubinitError, InitialisationError
from hubinit.models.kinds import KINDS
from hubinit.models.layers import base_of, linear_layers, output_heads, shape_of, target_layers
from hubinit.models.shapes import outline
from hubinit.runs.costs import GIB, device_memory
from hubinit.specs import FULL, NO_ADAPTER, MethodSpec, RunSpec, canonical
from hubinit.training import optimisers

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: 4 bits, an 8-bit scale for 64, a float32 for 256 of these
REST = 3 * GIB // 4  # libraries in a process on the CPU (half of it), CUDA's context and its allocator's gaps on a GPU
FUSED = "hubinit-fused"


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds, by part, and how many parameters it trains."""

    trainable: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    calibration: int

    @property
    def total(self) -> int:
        """At the largest moment."""
        training = self.gradients + self.optimiser + self.activations + self.logits
        return self.weights + max(training, self.calibration) + REST

    def parts(self) -> dict[str, int]:
        """The parts of the total, the largest first."""
        names = ("gradients", "optimiser", "activations", "logits")
        training = {name: getattr(self, name) for name in names}
        rest = training if sum(training.values()) >= self.calibration else {"calibration": self.calibration}
        return dict(sorted({"weights": self.weights, **rest}.items(), key=lambda part: -part[1]))


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


# None: the model does not run without weights.
_COUNTED: dict[str, Memory | None] = {}
_SEEN: dict[str, Seen] = {}


def memory_of(spec: RunSpec) -> Memory | None:
    """What a run needs; None where its model's shapes cannot be had, or the model does not run without weights.

    Runs that differ in learning rate, seed and data need the same.
    """
    key = key_of(spec)
    if key not in _COUNTED:
        try:
            _COUNTED[key] = count(spec)
        except (HubinitError, RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, KeyError):
            _COUNTED[key] = None
    return _COUNTED[key]


def key_of(spec: RunSpec) -> str:
    """A name for all runs with the same need."""
    seeds = dict.fromkeys(("data_seed", "init_seed", "dropout_seed"))
    same = spec.model_copy(update={"learning_rate": 0.0, "seed": 0, "data": None} | seeds)
    return canonical(same.model_dump(mode="json"), without=frozenset())  # a run's own key has no micro batch size


def count(spec: RunSpec) -> Memory:
    """Counts on the empty model, which is left as it was."""
    base: Any = outline(spec.model)[0]
    weights = base_bytes(base, nf4=spec.model.quantize is not None)
    recipe = spec.recipe
    if recipe is None:
        return Memory(0, weights, 0, 0, 0, 0, 0)
    twin = twin_of(spec)
    if (key := key_of(twin)) not in _SEEN:
        _SEEN[key] = observe(twin, base)
    seen = _SEEN[key]
    trainable = seen.trainable + directions(spec, base)
    tokens = recipe.micro_batch_size * recipe.max_length
    wide = spec.method.name == FULL and base.dtype == torch.bfloat16  # trained in float32, computed in bfloat16
    return Memory(
        trainable=trainable,
        weights=weights * (3 if wide else 1) + seen.adapter * (2 if has_anchor(spec) else 1),
        gradients=4 * trainable,
        optimiser=8 * trainable,
        activations=checkpointed(base, seen.kept, tokens) if recipe.gradient_checkpointing else seen.kept,
        logits=logit_bytes(base, tokens),
        calibration=calibration_bytes(spec, base, seen, tokens),
    )


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
    recipe, dtype = spec.recipe, base.dtype
    assert recipe is not None
    plain = base_bytes(base, nf4=False)
    kept, shares = None, dict[str, str]()
    try:
        model = attach(spec, base)
        optimisers.get(recipe.optimiser).build(model, 1e-4, recipe)  # it may freeze more; the rate is of no account
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        adapter = sum(parameter.nbytes for parameter in model.parameters()) - plain
        with suppress(RuntimeError):
            kept, shares = forward(model, spec, recipe.micro_batch_size, recipe.max_length)
    finally:
        adapters.detach(base)
        base.to(dtype).eval().requires_grad_(True)
    if kept is None:  # KaSA's layers look at the weights first; what they keep is what LoRA's do
        lora = MethodSpec(name="lora")
        if spec.method == lora:
            raise InitialisationError(f"{spec.model.id} does not run without weights.")
        alike = observe(spec.model_copy(update={"method": lora}), base)
        kept, shares = alike.kept, alike.shares
    return Seen(trained, adapter, kept, shares)


def directions(spec: RunSpec, base: nn.Module) -> int:
    """Coefficients that are trained beside the factors (LoRA-Dash)."""
    method = methods.get(spec.method.name) if spec.method.name not in NO_ADAPTER else None
    if method is None or method.directions is None:
        return 0
    wanted = getattr(methods.parse_options(method, spec.method.options), "directions", 0)
    return sum(min(wanted, *shape_of(layer)) for layer in target_layers(base, spec.target_modules).values())


def base_bytes(base: nn.Module, *, nf4: bool) -> int:
    """Bytes of all weights; with NF4 those of the linear layers but the head are quantised."""
    total = sum(parameter.nbytes for parameter in base.parameters())
    if not nf4:
        return total
    heads = set(output_heads(base))
    weights: list[Any] = [layer.weight for name, layer in linear_layers(base).items() if name not in heads]
    wide, quantised = (sum(sizes) for sizes in zip(*((w.nbytes, w.numel()) for w in weights), strict=True))
    return total - int(wide) + round(NF4 * int(quantised))


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


def has_anchor(spec: RunSpec) -> bool:
    """Whether the frozen start of the adapter stays beside it."""
    return spec.method.name not in NO_ADAPTER and methods.get(spec.method.name).anchored


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


def checkpointed(base: Any, kept: int, tokens: int) -> int:
    """Of the bytes kept, those with gradient checkpointing: each block's input, and one block's own."""
    blocks = sum(isinstance(module, GradientCheckpointingLayer) for module in base.modules())
    if not blocks:
        return kept
    width: int = base.config.get_text_config().hidden_size * base.dtype.itemsize
    return blocks * tokens * width + kept // blocks


def logit_bytes(base: Any, tokens: int) -> int:
    """Logits in the model's type with two gradients (of the slice and of the whole), and three float32 copies in the loss."""
    size: int = getattr(base.config.get_text_config(), "vocab_size", None) or 0
    each: int = 3 * base.dtype.itemsize + 3 * 4
    return tokens * size * each


def calibration_bytes(spec: RunSpec, base: nn.Module, seen: Seen, tokens: int) -> int:
    """The sums of the run's statistics and the activations of a batch, beside the weights; 0 without a calibration."""
    if spec.calibration is None:
        return 0
    wanted = statistics_of(spec.method.name, spec.method.options)
    shapes = [
        LayerShape(name, *shape_of(layer), seen.shares.get(name, name))
        for name, layer in target_layers(base, spec.target_modules).items()
    ]
    sums = plan_memory(shapes, wanted).device_bytes()
    if spec.calibration.memory_budget is not None:
        sums = min(sums, int(spec.calibration.memory_budget))
    elif torch.cuda.is_available():  # what is more goes to host memory, or waits for another pass
        sums = min(sums, max(0, device_memory() - base_bytes(base, nf4=spec.model.quantize is not None)) // 2)
    batch = BATCH_SIZE * spec.calibration.max_length
    if not wanted & BACKWARD:
        return sums
    return sums + seen.kept * batch // tokens + logit_bytes(base, batch)


def fits(memory: Memory) -> bool:
    """Whether a run fits on this device."""
    return memory.total <= device_memory()


def what_helps(memory: Memory) -> str:
    """What makes the largest part of a run smaller."""
    return {
        "weights": "--quantize nf4, or a smaller model",
        "activations": "--set recipe.gradient_checkpointing=true, or a smaller recipe.micro_batch_size",
        "logits": "a smaller recipe.micro_batch_size or recipe.max_length",
        "calibration": "--set calibration.memory_budget=4GiB, or a smaller calibration.max_length",
    }.get(next(iter(memory.parts())), "an adapter instead of full fine-tuning")
