"""What a scorer is, and what every scorer does with its values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hubinit.records import Score
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Task

Progress = Callable[[int, int], None]  # requests done, requests in all
# (task, model, tokenizer or image processor, evaluation, batch size, progress) ─► one score per metric, the ranking one `primary`
Rule = Callable[[Task, Any, Any, EvalSpec, int, Progress], list[Score]]


@dataclass(frozen=True)
class Scorer:
    """One way to score; a task names it.

    Attributes:
        name: as in `Task.scorer`.
        title: what it does, for `hubinit tasks`.
        score: the rule; the model is in evaluation mode.
    """

    name: str
    title: str
    score: Rule


def mean_score(
    values: Sequence[float],
    *,
    task: Task,
    metric: str,
    primary: bool,
    evaluation: EvalSpec,
    invalid_rate: float | None = None,
) -> Score:
    """The mean of per-example values with its standard error s/√n (none for a single example)."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else None
    return Score(
        task=task.name,
        metric=metric,
        value=mean,
        n=n,
        stderr=math.sqrt(variance / n) if variance is not None else None,
        invalid_rate=invalid_rate,
        primary=primary,
        eval=evaluation,
    )
