"""Two lines of the summary side by side: the difference on each task, and the questions on which they differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubinit.errors import HubinitError
from hubinit.leaderboard.comparison import Row, by_seed, compare
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.paired import Difference
from hubinit.leaderboard.ranking import SCORED_ON
from hubinit.leaderboard.sweeps import Runs, method_name
from hubinit.records import Item, read_items

Find = Callable[[str], Path | None]  # sha256 of item records ─► their file
MOST = 200  # questions that are listed


@dataclass(frozen=True)
class Duel:
    """One task on which both were scored: their lines, and `a − b`."""

    a: Row
    b: Row
    difference: Difference


@dataclass(frozen=True)
class Answers:
    """One question that one of the two scored higher on, with the same seed.

    Attributes:
        seed: of both runs.
        id: of the question.
        values: what a and b scored.
        outputs: what they wrote, or the choice they took.
    """

    seed: int
    id: str
    values: tuple[float, float]
    outputs: tuple[str, str]


def duels(a: Row, b: Row, lines: list[Row], runs: Runs, items: Items) -> list[Duel]:
    """The tasks that the methods of both lines were scored on, in the order of `lines`.

    Args:
        a: a line of the summary.
        b: another.
        lines: all of them.
        runs: behind them.
        items: the values of each question of these runs; where they are missing, questions are not paired.
    """
    left, right = (_by_task(line, lines) for line in (a, b))
    return [
        Duel(left[task], right[task], compare(runs.behind(left[task]), runs.behind(right[task]), items))
        for task in left
        if task in right
    ]


def wanted(a: Row, b: Row, lines: list[Row], runs: Runs) -> set[tuple[str, str]]:
    """sha256 and metric of the item records that `duels` reads."""
    found = [row for line in (a, b) for one in _by_task(line, lines).values() for row in runs.behind(one)]
    return {(row["items"], row["metric"]) for row in found if row["items"]}


def _by_task(line: Row, lines: list[Row]) -> dict[tuple[Any, ...], Row]:
    mine = method_name(line)
    return {tuple(one[name] for name in SCORED_ON): one for one in lines if method_name(one) == mine}


def differing(a: Row, b: Row, runs: Runs, find: Find) -> Iterator[Answers]:
    """The questions that one line's run scored higher on than the other's with the same seed, seed by seed.

    Runs whose item records are not there, or not as they were, are passed over.

    Args:
        a: a line of the summary.
        b: another, of the same task.
        runs: behind them.
        find: where item records lie.
    """
    for row, other in _pairs(a, b, runs):
        left, right = _read(row, find), _read(other, find)
        for name in sorted(left.keys() & right.keys(), key=lambda name: (len(name), name)):
            one, two = left[name], right[name]
            values = one.values.get(row["metric"]), two.values.get(row["metric"])
            if one.prompt_hash == two.prompt_hash and None not in values and values[0] != values[1]:
                told = _told(one, row["metric"]), _told(two, row["metric"])
                yield Answers(max(row["seed"], other["seed"]), name, (values[0] or 0.0, values[1] or 0.0), told)


@dataclass(frozen=True)
class Counts:
    """How often which of two scored higher on a question, over the seeds that both have.

    Attributes:
        a: questions on which a did.
        b: on which b did.
        same: on which they scored the same.
    """

    a: int
    b: int
    same: int


def counts(a: Row, b: Row, runs: Runs, items: Items) -> Counts | None:
    """How often which of two lines of one task scored higher; None where the values of their questions are not known."""
    pairs = [
        (items.get((row["items"], row["metric"])), items.get((other["items"], other["metric"])))
        for row, other in _pairs(a, b, runs)
    ]
    known = [(x, y) for x, y in pairs if x is not None and y is not None and x.questions == y.questions]
    if not known:
        return None
    higher = sum(int((x.values > y.values).sum()) for x, y in known)
    lower = sum(int((x.values < y.values).sum()) for x, y in known)
    return Counts(higher, lower, sum(len(x.values) for x, _ in known) - higher - lower)


def _pairs(a: Row, b: Row, runs: Runs) -> Iterator[tuple[Row, Row]]:
    """The runs of both with the same seed; the untrained base has every seed."""
    left, right = runs.behind(a), runs.behind(b)
    first, second = by_seed(left, right), by_seed(right, left)
    for seed in sorted(first.keys() & second.keys()):
        yield first[seed], second[seed]


def _read(row: Row, find: Find) -> dict[str, Item]:
    path = find(row["items"]) if row["items"] else None
    try:
        return {item.id: item for item in read_items(path, row["items"])} if path else {}
    except HubinitError:
        return {}


def _told(item: Item, metric: str) -> str:
    return item.extracted.get(metric) or " ⏎ ".join(item.outputs)
