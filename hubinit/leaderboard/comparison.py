"""The methods of one table against LoRA and against each other, at the learning rates that were chosen before."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from hubinit.leaderboard.curves import read_curve, steps_to_reach
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.paired import NOTHING_IN_COMMON, Array, Difference, two_way, unpaired
from hubinit.leaderboard.statistics import ALPHA, best_shares, holm, places

Row = dict[str, Any]
MARKS = ("better", "worse")
COMPARED = [
    *("delta", "delta_stderr", "delta_low", "delta_high", "pairs", "paired", "p", "p_corrected", "mark"),
    *("items_needed", "seeds_needed", "place", "best_share"),
    *("loss_delta", "loss_low", "loss_high", "loss_p", "reach_steps", "reach_seconds"),
]
INIT = ("seconds_calibrate", "seconds_initialise")


def compare_all(methods: Sequence[list[Row]], baseline: list[Row], items: Items) -> Iterator[Row]:
    """The columns `COMPARED` of each method.

    `delta` is the mean difference to the baseline over common seeds, `paired` whether it is so question by question, `p` of it by
    itself, and `p_corrected` for all methods of the table together; `mark` says `better` or `worse` where that is below 5 %.
    With one seed there is no mark: how much seeds vary is unknown. `items_needed` and `seeds_needed` say how many in all would
    show a difference of this size at that correction with 80 % power. `place` and `best_share`: see `statistics`. `loss_delta`
    is paired by seed, and `loss_p` is corrected as `p_corrected` is. `reach_steps` and `reach_seconds` (initialisation included)
    are medians over seeds of what it takes until the training loss, in the blocks of the stored curve, is at or below the last
    block of the baseline with the same seed.

    Args:
        methods: the rows of each at its learning rate, one per seed, in the order of their values.
        baseline: those of plain LoRA; empty without one.
        items: what is known of the values of each question.
    """
    differences = [
        NOTHING_IN_COMMON if _is_same(rows, baseline) else compare(rows, baseline, items) for rows in methods
    ]
    corrected = holm([difference.p if difference.seeds > 1 else math.nan for difference in differences])
    tests = max(sum(difference.seeds > 0 for difference in differences), 1)
    losses = [NOTHING_IN_COMMON if _is_same(rows, baseline) else compare_losses(rows, baseline) for rows in methods]
    of_losses = holm([loss.p for loss in losses])
    order, shares = _places(methods, items), _shares(methods, items)
    found_all = zip(methods, differences, corrected, losses, of_losses, order, shares, strict=True)
    for rows, found, p, loss, loss_p, place, share in found_all:
        reached = list(_costs_to_reach(rows, baseline))
        yield {
            "delta": found.mean,
            "delta_stderr": found.stderr,
            "delta_low": found.low,
            "delta_high": found.high,
            "pairs": found.seeds,
            "paired": found.paired if found.seeds else None,
            "p": found.p,
            "p_corrected": p,
            "mark": MARKS[found.mean < 0] if p < ALPHA else None,
            "items_needed": found.items_needed(ALPHA / tests),
            "seeds_needed": found.seeds_needed(ALPHA / tests),
            "place": place,
            "best_share": share,
            "loss_delta": loss.mean,
            "loss_low": loss.low,
            "loss_high": loss.high,
            "loss_p": loss_p,
            "reach_steps": _finite(median(steps for steps, _ in reached)) if reached else None,
            "reach_seconds": _finite(median(seconds for _, seconds in reached)) if reached else None,
        }


def compare(a: list[Row], b: list[Row], items: Items) -> Difference:
    """The difference `a − b` over the seeds that both have, question by question where the values of all are known.

    The untrained base has one seed; it is compared with every seed of the other.
    """
    left, right = by_seed(a, b), by_seed(b, a)
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return NOTHING_IN_COMMON
    values = _values([left[seed] for seed in seeds] + [right[seed] for seed in seeds], items)
    if values is not None:
        return two_way(values[: len(seeds)] - values[len(seeds) :])  # [seeds, items]
    differences = np.array([left[seed]["value"] - right[seed]["value"] for seed in seeds])  # [seeds]
    known = [[row["stderr"] for row in rows if row["stderr"] is not None] for rows in (a, b)]
    stderr = math.hypot(*map(median, known)) if all(known) else math.nan
    return unpaired(differences, stderr, min(row["n"] for row in (*a, *b)))


def compare_losses(a: list[Row], b: list[Row]) -> Difference:
    """The difference of the validation losses, paired by seed."""
    left, right = by_seed(a, b), by_seed(b, a)
    pairs = [(left[seed]["validation_loss"], right[seed]["validation_loss"]) for seed in left.keys() & right.keys()]
    known = sorted(x - y for x, y in pairs if x is not None and y is not None)
    return two_way(np.array(known)[:, None]) if known else NOTHING_IN_COMMON  # [seeds, 1]


def is_untrained(row: Row) -> bool:
    """The base as it is. A linear probe has no adapter either, but it was trained."""
    return row["method"] == "none" and row["train_data"] is None


def by_seed(rows: list[Row], others: list[Row]) -> dict[int, Row]:
    """Rows by seed; the untrained base has every seed of the others."""
    if rows and is_untrained(rows[0]):
        return {row["seed"]: rows[0] for row in others}
    return {row["seed"]: row for row in rows}


def init_seconds(row: Row) -> float | None:
    """Seconds of calibration and initialisation; None where neither was timed."""
    return sum(row[stage] or 0.0 for stage in INIT) if any(row[stage] is not None for stage in INIT) else None


def _is_same(rows: list[Row], baseline: list[Row]) -> bool:
    """Whether it is the baseline, or another version of it."""
    return not baseline or all(rows[0][name] == baseline[0][name] for name in ("method", "optimiser"))


def _values(rows: Sequence[Row], items: Items) -> Array | None:
    """[rows, items]; None unless all were asked the same questions, and their scores are the means over them."""
    found = [items.get((row["items"], row["metric"])) for row in rows]
    if any(one is None for one in found):
        return None
    known = [one for one in found if one is not None]
    if len({one.questions for one in known}) > 1:
        return None
    values = np.stack([one.values for one in known])  # [rows, items]
    means = values.mean(axis=1)  # [rows]
    return values if np.allclose(means, [row["value"] for row in rows], rtol=0, atol=1e-6) else None


def _places(methods: Sequence[list[Row]], items: Items) -> list[int | None]:
    """Places by `places`; None for a method that could be tested against no other, such as one with a single seed."""
    p = np.full((len(methods), len(methods)), math.nan)
    for first, second in combinations(range(len(methods)), 2):
        found = compare(methods[first], methods[second], items)
        p[first, second] = p[second, first] = found.p if found.seeds > 1 else math.nan
    tested = [one for one in range(len(methods)) if len(methods) == 1 or not np.isnan(p[one]).all()]
    known = dict(zip(tested, places(p[np.ix_(tested, tested)]), strict=True))
    return [known.get(one) for one in range(len(methods))]


def _shares(methods: Sequence[list[Row]], items: Items) -> list[float | None]:
    """`best_shares` where the values of all methods are known and have a seed in common."""
    trained = [rows for rows in methods if not is_untrained(rows[0])]
    if len(methods) < 2 or not trained:
        return [None] * len(methods)
    common = sorted(set.intersection(*({row["seed"] for row in rows} for rows in trained)))
    tables = [by_seed(rows, trained[0]) for rows in methods]
    values = _values([table[seed] for table in tables for seed in common], items) if common else None
    if values is None:
        return [None] * len(methods)
    return list(best_shares(values.reshape(len(methods), len(common), -1)))  # [methods, seeds, items]


def _costs_to_reach(rows: list[Row], baseline: list[Row]) -> Iterator[tuple[float, float]]:
    """Steps and seconds until each run is at the last training loss of the baseline with its seed; ∞ where it never is."""
    others = {row["seed"]: read_curve(row["curve"]) for row in baseline}
    for row in rows:
        curve, goal = read_curve(row["curve"]), others.get(row["seed"])
        if curve is None or goal is None or not curve.step[-1]:
            continue
        steps = steps_to_reach(curve, goal.loss[-1])
        if steps is None:
            yield math.inf, math.inf
        else:
            share = steps / curve.step[-1]
            train = row["seconds_train"]
            yield steps, math.nan if train is None else (init_seconds(row) or 0.0) + share * train


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
