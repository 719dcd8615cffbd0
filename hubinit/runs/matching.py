"""The rank at which a method trains about as many parameters as plain LoRA does: what `match_parameters` in a protocol asks for.

Parameters are counted on the model without weights, before anything is planned, so the rank is part of the run and of its key.
The scaling s = alpha / r (rsLoRA: alpha / √r) stays what it was. A rank moves only where that at least halves the difference:
for DoRA, KaSA, NEAT and LoRA-Dash a whole rank is more than what they train besides, and VeRA is not LoRA's size at any rank.
EVA deals the same sum of ranks out to layers of other sizes, which only its calibration knows: its results say what it trains.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from hubinit.errors import HubError, HubinitError
from hubinit.models.layers import shape_of, target_layers
from hubinit.models.shapes import outline
from hubinit.runs.observing import as_trained, directions, twin_of
from hubinit.specs import DEFAULT_OPTIMISER, NO_ADAPTER, ModelSpec, RunSpec

REFUSED = (HubinitError, RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, KeyError)
NOTICED = 0.005  # of LoRA's parameters: a smaller difference is not worth a word
_COUNTED: dict[str, int] = {}


def count_parameters(spec: RunSpec) -> int:
    """Parameters that a run trains; those of a method that deals out ranks are counted at an even rank.

    Raises:
        HubinitError: the model's shapes cannot be had, or the method does not fit them; also what PEFT raises then.
    """
    base: Any = outline(spec.model)[0]
    twin = twin_of(spec).model_copy(update={"data": None, "alpha": 1.0, "learning_rate": 0.0, "seed": 0})
    if twin.key not in _COUNTED:
        kinds: dict[Hashable, list[str]] = {}
        for name, layer in target_layers(base, spec.target_modules).items():
            kinds.setdefault((type(layer), shape_of(layer)), []).append(name)
        one_each = tuple(names[0] for names in kinds.values())  # layers of one shape train equally many
        with as_trained(twin.model_copy(update={"target_modules": one_each}), base) as model:
            _COUNTED[twin.key] = sum(
                parameter.numel() * next((len(names) for names in kinds.values() if f".{names[0]}." in path), 1)
                for path, parameter in model.named_parameters()
                if parameter.requires_grad
            )
    return _COUNTED[twin.key] + directions(spec, base)


def match_rank(spec: RunSpec, plain: RunSpec) -> RunSpec:
    """The run at the rank whose parameters lie nearest those of plain LoRA.

    The count is taken to be a line in the rank; what is nearest on it is counted too, for methods of which that is not true.

    Args:
        spec: a run that trains an adapter, with its optimiser.
        plain: plain LoRA's, with AdamW.

    Returns:
        `spec` as it is, where another rank would not at least halve the difference, or nothing can be counted.

    Raises:
        HubError: the model's shapes cannot be had.
    """
    try:
        layers = target_layers(outline(spec.model)[0], spec.target_modules)
        most = min(min(shape_of(layer)) for layer in layers.values())
        wanted, here = count_parameters(plain), count_parameters(spec)
        if wanted == here:
            return spec
        step = 1 if spec.rank < most else -1
        slope = step * (count_parameters(at_rank(spec, spec.rank + step)) - here)
        if slope <= 0:
            return spec
        best = at_rank(spec, min(max(round(spec.rank + (wanted - here) / slope), 1), most))
        return best if 2 * abs(count_parameters(best) - wanted) <= abs(here - wanted) else spec
    except HubError:
        raise
    except REFUSED:  # the checks before the runs say it in a sentence
        return spec


def at_rank(spec: RunSpec, rank: int) -> RunSpec:
    """The run at another rank with the same scaling."""
    ratio = rank / spec.rank
    return spec.model_copy(update={"rank": rank, "alpha": spec.alpha * (math.sqrt(ratio) if spec.rslora else ratio)})


def ratio_to_lora(spec: RunSpec, plain: RunSpec) -> float | None:
    """Parameters of a run as a multiple of plain LoRA's; None where they cannot be counted."""
    try:
        return count_parameters(spec) / count_parameters(plain)
    except REFUSED:
        return None


def describe_matches(specs: Iterable[RunSpec], plain: RunSpec) -> Iterator[str]:
    """Which methods have another rank than plain LoRA, and which train more or less at any rank: a sentence each."""
    moved, unequal = dict[str, list[str]](), dict[str, list[str]]()
    for name, spec in adapters_of(specs, plain.model).items():
        if (ratio := ratio_to_lora(spec, plain)) is None:
            continue
        if spec.rank != plain.rank:
            moved.setdefault(f"rank {spec.rank} ({ratio:.2f} ×)", []).append(name)
        elif abs(ratio - 1) > NOTICED:
            unequal.setdefault(f"{ratio:.2f} ×", []).append(name)
    for found, words in ((moved, "Ranks that train about as much as"), (unequal, "A whole rank does not equal")):
        if found:
            parts = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items())
            yield f"{words} lora at rank {plain.rank}: {parts}."


def adapters_of(specs: Iterable[RunSpec], model: ModelSpec) -> dict[str, RunSpec]:
    """One run of each adapter method of a model, by the method with an optimiser that is not the default one."""
    found: dict[str, RunSpec] = {}
    for spec in specs:
        if spec.method.name not in NO_ADAPTER and spec.recipe is not None and spec.model == model:
            optimiser = spec.recipe.optimiser_label
            name = spec.method.name if optimiser == DEFAULT_OPTIMISER else f"{spec.method.name} ({optimiser})"
            found.setdefault(name, spec)
    return found
