"""Two evaluations of the same questions, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from hubinit.errors import HubinitError
from hubinit.records import Item
from hubinit.scoring.evaluate import SCORERS
from hubinit.tasks.spec import Task


@dataclass(frozen=True)
class Pairs:
    """Which of two did better on which question, by one metric.

    `p` is McNemar's exact one: of the questions on which the two differ, as many or fewer on the smaller side by a fair coin,
    both sides counted. For a metric between 0 and 1 it is that of the sign test, and `both_right` are full marks of both.
    """

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    p: float
    differing: list[tuple[Item, Item]]


@dataclass(frozen=True)
class Differences:
    """Which of two got more on which question, where an item is neither right nor wrong, and what they wrote.

    Attributes:
        n: questions.
        same: outputs that are equal.
        first_higher: questions on which the first has the higher value.
        second_higher: questions on which the second has.
        differing: the questions whose outputs or values differ.
    """

    n: int
    same: int
    first_higher: int
    second_higher: int
    differing: list[tuple[Item, Item]]


def compare_items(first: Sequence[Item], second: Sequence[Item], metric: str) -> Pairs:
    """Pairs two evaluations by the ids of their items.

    Raises:
        HubinitError: they are not of the same questions and prompts, or have no such metric.
    """
    pairs = pair_items(first, second)
    signs = [value_of(one, metric) - value_of(other, metric) for one, other in pairs]
    better, worse = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
    right = sum(sign == 0 and is_right(one, metric) for sign, (one, _) in zip(signs, pairs, strict=True))
    return Pairs(
        both_right=right,
        only_first=better,
        only_second=worse,
        both_wrong=len(pairs) - better - worse - right,
        p=float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
        differing=[pair for sign, pair in zip(signs, pairs, strict=True) if sign],
    )


def compare_outputs(first: Sequence[Item], second: Sequence[Item], metric: str) -> Differences:
    """Pairs two evaluations by the ids of their items, and counts where the outputs and the values differ.

    Raises:
        HubinitError: they are not of the same questions and prompts.
    """
    pairs = pair_items(first, second)
    signs = [one.values.get(metric, 0.0) - other.values.get(metric, 0.0) for one, other in pairs]
    return Differences(
        n=len(pairs),
        same=sum(one.outputs == other.outputs for one, other in pairs),
        first_higher=sum(sign > 0 for sign in signs),
        second_higher=sum(sign < 0 for sign in signs),
        differing=[pair for sign, pair in zip(signs, pairs, strict=True) if sign or pair[0].outputs != pair[1].outputs],
    )


def pair_items(first: Sequence[Item], second: Sequence[Item]) -> list[tuple[Item, Item]]:
    """The items of two evaluations by their ids, in the order of the first.

    Raises:
        HubinitError: they are not of the same questions and prompts.
    """
    others = {item.id: item for item in second}
    if {item.id for item in first} != others.keys():
        raise HubinitError(f"The two were asked different questions: {len(first)} and {len(second)}.")
    pairs = [(item, others[item.id]) for item in first]
    for one, other in pairs:
        if one.prompt_hash and other.prompt_hash and one.prompt_hash != other.prompt_hash:
            raise HubinitError(f"The two were not asked alike: question {one.id!r} had another prompt.")
    return pairs


def have_verdicts(task: Task | None, items: Sequence[Item], metric: str) -> bool:
    """Whether a metric says of each item that it is right or wrong, or which share of its programs is.

    Args:
        task: whose items; None: it is not known here.
        items: of an evaluation.
        metric: one of theirs.
    """
    if task is not None and not SCORERS[task.scorer].verdicts:
        return False
    values = {item.values.get(metric) for item in items}
    if task is not None and task.coding:
        return None not in values and all(0 <= value <= 1 for value in values if value is not None)
    return values <= {0.0, 1.0}


def value_of(item: Item, metric: str) -> float:
    """What an item scored.

    Raises:
        HubinitError: the item has no such metric.
    """
    if metric not in item.values:
        known = ", ".join(item.values)
        raise HubinitError(f"Question {item.id!r} has no metric '{metric}': it has {known or 'none'}.")
    return item.values[metric]


def is_right(item: Item, metric: str) -> bool:
    """Whether an item has full marks."""
    return value_of(item, metric) >= 1
