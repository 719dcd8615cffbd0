"""Two evaluations of the same questions, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from hubinit.errors import HubinitError
from hubinit.records import Item


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


def compare_items(first: Sequence[Item], second: Sequence[Item], metric: str) -> Pairs:
    """Pairs two evaluations by the ids of their items.

    Raises:
        HubinitError: they are not of the same questions and prompts, or have no such metric.
    """
    others = {item.id: item for item in second}
    if {item.id for item in first} != others.keys():
        raise HubinitError(f"The two were asked different questions: {len(first)} and {len(second)}.")
    pairs = [(item, others[item.id]) for item in first]
    for one, other in pairs:
        if one.prompt_hash and other.prompt_hash and one.prompt_hash != other.prompt_hash:
            raise HubinitError(f"The two were not asked alike: question {one.id!r} had another prompt.")
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
