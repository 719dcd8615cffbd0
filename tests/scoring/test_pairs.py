"""Two runs item by item: counts and McNemar's exact test against a brute-force sum."""

import math
import re

import pytest

from hubinit.errors import HubinitError
from hubinit.records import Item
from hubinit.scoring.pairs import compare_items


def items(values: list[float], prompt: str = "") -> list[Item]:
    return [
        Item(id=str(index), prompt_hash=prompt, values={"acc": value, "other": 0.0})
        for index, value in enumerate(values)
    ]


def two_sided(smaller: int, n: int) -> float:
    """Twice the tail of a fair coin, at most 1."""
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(smaller + 1)) / 2**n)


@pytest.mark.parametrize(("better", "worse"), [(7, 1), (1, 7), (3, 3), (0, 0), (12, 2)])
def test_counts_and_the_exact_p(better: int, worse: int) -> None:
    first = [1.0] * better + [0.0] * worse + [1.0] * 4 + [0.0] * 5
    second = [0.0] * better + [1.0] * worse + [1.0] * 4 + [0.0] * 5
    found = compare_items(items(first), items(second)[::-1], "acc")  # the order does not matter
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (4, better, worse, 5)
    assert found.p == pytest.approx(two_sided(min(better, worse), better + worse))
    assert [one.id for one, _ in found.differing] == [str(index) for index in range(better + worse)]
    assert all(one.id == other.id for one, other in found.differing)


def test_shares_of_right_samples_are_compared_by_sign() -> None:
    found = compare_items(items([0.5, 0.25, 1.0, 0.5]), items([0.25, 0.5, 1.0, 0.5]), "acc")
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("second", "metric", "message"),
    [
        (items([1.0]), "acc", "asked different questions: 2 and 1"),
        (items([1.0, 0.0], "other"), "acc", "question '0' had another prompt"),
        (items([1.0, 0.0]), "f1", "no metric 'f1': it has acc, other"),
    ],
)
def test_what_is_not_a_pair_is_one_sentence(second: list[Item], metric: str, message: str) -> None:
    with pytest.raises(HubinitError, match=re.escape(message)):
        compare_items(items([1.0, 0.0], "this"), second, metric)
