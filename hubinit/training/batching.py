"""How the examples of one optimiser step share its forward passes.

Which examples a step holds, what each weighs and the order of the steps do not change, so neither does the loss, up to rounding.

- `shuffled`: as they come, each pass padded to its longest example.
- `length-grouped`: the examples of the step are sorted by length first, so that those of one pass need little padding.
  transformers' own grouping sorts across steps, and a step would no longer be a random set.
- `packed`: those of one pass lie end to end in one row, without padding. Positions restart with each example, by which
  transformers tells them apart and lets none attend to another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hubinit.adapters.gates import TOLERANCE, deviation, evaluating
from hubinit.errors import HubinitError, first_line

Feature = Mapping[str, Sequence[int]]
CHECKED_TOKENS = 32  # of each of the two examples that show whether a model can be packed


def pack(features: Sequence[Feature]) -> dict[str, Any]:
    """Lays examples end to end in one row.

    The first token of an example is never a label, so none is predicted from the example before. Without `use_cache=False` a
    model makes a cache, and transformers does not look for packed examples where there is one.

    Returns:
        `input_ids`, `labels` and `position_ids`, each (1, tokens of all examples), and `use_cache`.
    """
    ids = [token for feature in features for token in feature["input_ids"]]
    labels = [label for feature in features for label in feature["labels"]]
    positions = [position for feature in features for position in range(len(feature["input_ids"]))]
    return {
        "input_ids": torch.tensor([ids]),  # (1, T)
        "labels": torch.tensor([labels]),  # (1, T)
        "position_ids": torch.tensor([positions]),  # (1, T)
        "use_cache": False,
    }


def group_by_length(features: Sequence[Feature], size: int) -> list[list[Feature]]:
    """Cuts the examples of one optimiser step, from long to short, into groups of `size`; the last may be smaller."""
    ordered = sorted(features, key=lambda feature: -len(feature["input_ids"]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def check_packing(model: Any, features: Sequence[Feature]) -> None:
    """Refuses to pack where an example's logits depend on what lies before it in the row, or on nothing before it at all.

    Two examples are computed in one row and apart. Which architectures and attention implementations keep them apart is
    transformers' affair and changes with its versions, so it is measured.

    Args:
        model: with its adapters, on its device.
        features: at least one encoded example.

    Raises:
        HubinitError: they differ by more than rounding.
    """
    rows = [
        {name: values[:CHECKED_TOKENS] for name, values in feature.items()} for feature in (features[0], features[-1])
    ]
    refusal = (
        "recipe.batching=packed does not fit this model with its attention implementation ({}); use length-grouped."
    )
    device = next(model.parameters()).device

    def logits(*together: Feature) -> torch.Tensor:
        batch = pack(together)
        del batch["labels"]
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        return model(**moved).logits[0].float()  # type: ignore[no-any-return]  # (T, V)

    try:
        with evaluating(model):
            apart = torch.cat([logits(row) for row in rows])  # (T, V)
            measured = deviation(logits(*rows), apart)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise HubinitError(refusal.format(first_line(error))) from error
    dtypes = {parameter.dtype for parameter in model.parameters()}
    tolerance = max(TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16]) for dtype in dtypes)
    if not measured <= tolerance:
        raise HubinitError(refusal.format(f"its examples see each other: relative deviation {measured:.0e}"))
