"""What a run will hold in memory: counted on its model without weights, before anything is downloaded.

- **Weights**: of the base in its type (NF4: half a byte, and the scales of blocks of 64, arXiv 2305.14314), and of the adapter.
- **Gradients and optimiser**: float32, and two moments of Adam, for what is trained.
- **Activations**: what autograd keeps of one micro batch of full length (`hubinit.runs.observing`). With gradient
  checkpointing: the input of each block, and what one block keeps (Chen et al., arXiv 1604.06174).
- **Logits**: of every token, with their gradients and the float32 copies of the loss.
- **Calibration**: the sums, as `hubinit.calibration.memory` plans them, with the activations of its own batch.

Training and calibration follow each other, so the larger one counts. Scoring is not counted: it takes smaller batches where
memory does not suffice. Texts shorter than `max_length` need less.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from hubinit import methods
from hubinit.adapters.calibrating import statistics_of
from hubinit.calibration.memory import LayerShape, plan_memory
from hubinit.calibration.shared import BATCH_SIZE
from hubinit.calibration.taps import BACKWARD
from hubinit.errors import HubinitError
from hubinit.models.layers import linear_layers, output_heads, shape_of, target_layers
from hubinit.models.shapes import outline
from hubinit.runs.costs import GIB, device_memory
from hubinit.runs.observing import Seen, directions, observe, twin_of
from hubinit.specs import FULL, NO_ADAPTER, RunSpec, canonical

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: 4 bits, an 8-bit scale for 64, a float32 for 256 of these
REST = 3 * GIB // 4  # libraries in a process on the CPU (half of it), CUDA's context and its allocator's gaps on a GPU


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


def base_bytes(base: nn.Module, *, nf4: bool) -> int:
    """Bytes of all weights; with NF4 those of the linear layers but the head are quantised."""
    total = sum(parameter.nbytes for parameter in base.parameters())
    if not nf4:
        return total
    heads = set(output_heads(base))
    weights: list[Any] = [layer.weight for name, layer in linear_layers(base).items() if name not in heads]
    wide, quantised = (sum(sizes) for sizes in zip(*((w.nbytes, w.numel()) for w in weights), strict=True))
    return total - int(wide) + round(NF4 * int(quantised))


def has_anchor(spec: RunSpec) -> bool:
    """Whether the frozen start of the adapter stays beside it."""
    return spec.method.name not in NO_ADAPTER and methods.get(spec.method.name).anchored


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
