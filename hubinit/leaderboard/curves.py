"""A run's learning curve as a cell of a table, and what it costs to come as far as LoRA comes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hubinit.leaderboard.rows import COUNTED, LARGEST
from hubinit.records import CurvePoint

BLOCKS = 50  # of a thinned curve


class Curve(NamedTuple):
    """Training loss as means over blocks of equally many logged steps.

    Attributes:
        step: the last step of each block.
        loss: the mean training loss of its steps.
    """

    step: tuple[int, ...]
    loss: tuple[float, ...]


def write_curve(points: Sequence[CurvePoint]) -> str | None:
    """The curve as JSON of at most `BLOCKS` blocks; None without points."""
    if not points:
        return None
    size = -(-len(points) // BLOCKS)
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    found = {
        "step": [block[-1].step for block in blocks],
        "loss": [float(f"{sum(point.loss for point in block) / len(block):.5g}") for block in blocks],
    }
    return json.dumps(found, separators=(",", ":"))


def read_curve(text: str | None) -> Curve | None:
    """The curve of a cell; None where there is none, or something else: steps count upwards, losses can be drawn."""
    try:
        found = json.loads(text or "null")
        steps, losses = tuple(map(int, found["step"])), tuple(map(float, found["loss"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    whole = len(steps) == len(losses) and steps and steps[0] > 0 and steps[-1] < COUNTED
    rising = all(one < other for one, other in pairwise(steps))
    return Curve(steps, losses) if whole and rising and all(abs(loss) <= LARGEST for loss in losses) else None


def steps_to_reach(curve: Curve, goal: float) -> int | None:
    """The end of the first block whose mean training loss is `goal` or lower; None where the run never comes so far."""
    return next((step for step, loss in zip(curve.step, curve.loss, strict=True) if loss <= goal), None)
