"""What a scorer is, and what every scorer does with its items."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubinit.errors import HubinitError, first_line
from hubinit.records import Item, Score
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Document, Task

Progress = Callable[[int, int], None]  # requests done, requests in all


@dataclass(frozen=True)
class Scored:
    """The scores of one task, the record of every item that they come from, and what could not be scored and why."""

    scores: list[Score]
    items: list[Item]
    notes: tuple[str, ...] = ()


# (task, model, tokenizer or image processor, evaluation, batch size, progress) ─► one score per metric, the ranking one `primary`
Rule = Callable[[Task, Any, Any, EvalSpec, int, Progress], Scored]
# (task, documents by id, outputs of each in the same order, evaluation) ─► the same, for answers that are already there
Grade = Callable[[Task, Mapping[str, Document], Sequence[Sequence[str]], EvalSpec], Scored]


@dataclass(frozen=True)
class Scorer:
    """One way to score; a task names it.

    Attributes:
        name: as in `Task.scorer`.
        title: what it does, for `hubinit tasks`.
        score: the rule; the model is in evaluation mode.
        grade: how recorded outputs are scored; None where a score is not made from outputs.
        verdicts: whether an item is right or wrong by itself; else a score is of all items together, or of degrees.
        check: raises a HubinitError where this machine cannot do it, before a model has worked for it.
    """

    name: str
    title: str
    score: Rule
    grade: Grade | None = None
    verdicts: bool = True
    check: Callable[[], object] | None = None


def wrong_document(task: Task, key: str, error: Exception | str) -> HubinitError:
    """The one sentence for a document that is not the task's: recorded outputs may bring their own."""
    said = error if isinstance(error, str) else first_line(error)
    reason = f"it has no {error}" if isinstance(error, KeyError) else said
    return HubinitError(f"Question {key!r} is not one of '{task.name}': {reason}.")


def mean_scores(
    items: Sequence[Item], task: Task, evaluation: EvalSpec, *, invalid: bool = False, primary: str | None = None
) -> list[Score]:
    """One score per metric of the items: its mean with the standard error s/√n (none for a single item).

    Args:
        items: all with the same metrics.
        task: what they belong to.
        evaluation: what was asked for.
        invalid: whether an item without an extracted answer counts as one without a usable output.
        primary: the metric that ranks the task. Default: as the task says.
    """
    return [
        mean_score(
            [item.values[metric] for item in items],
            task=task,
            metric=metric,
            primary=metric == (primary or task.primary.removesuffix(",none")),
            evaluation=evaluation,
            invalid_rate=invalid_share(items, metric) if invalid else None,
        )
        for metric in items[0].values
    ]


def invalid_share(items: Sequence[Item], metric: str) -> float:
    """The share of items in which a metric found no usable answer."""
    return sum(metric not in item.extracted for item in items) / len(items)


def mean_score(
    values: Sequence[float],
    *,
    task: Task,
    metric: str,
    primary: bool,
    evaluation: EvalSpec,
    invalid_rate: float | None = None,
) -> Score:
    """The mean of per-item values with its standard error s/√n (none for a single item)."""
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


@dataclass(frozen=True)
class Average:
    """The mean of a suite's ranking metrics; `stderr` is √(Σ se²)/k, as its k test sets are drawn apart from each other."""

    suite: str
    tasks: tuple[str, ...]
    value: float
    stderr: float | None


def average(suite: str, members: Sequence[str], scores: Sequence[Score]) -> Average | None:
    """The average of a suite, or None unless every member was scored.

    Args:
        suite: its name.
        members: its tasks.
        scores: of one model, one ranking metric per task.
    """
    ranking = {score.task: score for score in scores if score.primary}
    if not set(members) <= ranking.keys():
        return None
    errors = [ranking[name].stderr for name in members]
    known = [error for error in errors if error is not None]
    return Average(
        suite=suite,
        tasks=tuple(members),
        value=sum(ranking[name].value for name in members) / len(members),
        stderr=math.hypot(*known) / len(members) if len(known) == len(members) else None,
    )
