"""Ranking methods, and saying how sure it is: medians over seeds, paired differences, no choice made on test scores."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from statistics import fmean, median, stdev
from typing import Any

import pandas as pd

from hubinit.leaderboard.comparison import COMPARED, Row, compare, compare_all, init_seconds, is_untrained
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.paired import NOTHING_IN_COMMON
from hubinit.leaderboard.settings import BASELINE, NO_GUEST, OWN_SIZE, TRAINING, as_trained, group, settings, values
from hubinit.specs import DEFAULT_OPTIMISER, OF_OPTIMISER, canonical

SCORED_ON = [
    "task",
    "data_revision",
    "limit",
    "shots",
    "judge",
    "metric",
]  # what differs between the tasks of one method
EVALUATION = ["model", "revision", "dtype", *SCORED_ON]  # what one ranking compares
METHOD = ["method", "optimiser", "method_version", "options", "calibration_samples", "calibration"]  # of one line of it
LINE = [*METHOD, *OWN_SIZE]  # what tells the lines of one table apart
FAILED_RUN = ["model", "revision", "dtype", *TRAINING, *METHOD]
RANKING = [
    *EVALUATION,
    *TRAINING,
    *LINE,
    "default_lr",
    "default",
    "lr",
    "value",
    "mean",
    "std",
    "seeds",
    "n",
    "stderr",
    "validation_loss",
    *COMPARED,
    "default_delta",
    "default_low",
    "default_high",
    "init_seconds",
    "train_seconds",
    "peak_memory_bytes",
    "forgetting",
    "unadapted",
    "contaminated",
    "failed",
    "best",
    "keys",
]


def rank(runs: pd.DataFrame, items: Items | None = None, *, default_lr: float | None = None) -> pd.DataFrame:
    """Ranks the methods of each model and task by their primary metric.

    The learning rate is chosen by validation loss (the lowest median over seeds), never by score; without validation losses
    the default one is taken: the rate that most methods of the table were run at. A rate at which seeds are missing is not
    chosen while others have more: those that diverged are not forgotten.

    Args:
        runs: as from `table` or `merge`.
        items: what each run scored on each question, for differences that are paired by question. Without it they are paired by
            seed, and questions count as if each run had been asked its own.
        default_lr: the default learning rate, where it is known to be another than that of most methods.

    Returns:
        One row per evaluation, training setting and method (with its optimiser, version, options and number of calibration
        examples), best first; `recipe` is then without the optimiser. `default_lr` and `default` (median at that rate), `lr`
        `value` (median at the chosen rate) with `mean`, `std` and `seeds`, `n` and `stderr` (binomial, median over seeds),
        `validation_loss` (median at the chosen rate), what `compare_all` says of the differences to plain LoRA and of the place,
        `default_delta` with its interval (the difference of both at the default rate), `init_seconds` (calibration and
        initialisation), `train_seconds`, `peak_memory_bytes` and `forgetting` (medians), `unadapted` (the most target modules
        that a run left without an adapter), `contaminated` (test items that are in the training data), `failed` (runs without a
        score), `best` (leads the next method by more than the uncertainty of their difference), `keys` (of the runs behind it).
        `rank` and `alpha` are the table's; `own_rank` and `own_alpha` say what a line was trained with where that is another.
    """
    records: list[Row] = [dict(zip(runs.columns, values, strict=True)) for values in runs.itertuples(index=False)]
    rows = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in records]
    for row in rows:
        row |= NO_GUEST
        if row["optimiser"] is not None and row["recipe"] is not None:
            row["recipe"] = without_optimiser(row["recipe"])
    scored = [row for row in rows if row["primary"] and row["value"] is not None]
    failed = Counter(values(row, FAILED_RUN) for row in rows if row["task"] is None and row["status"] != "ok")
    boards = [line for board in group(scored, EVALUATION) for line in _board(board, failed, items or {}, default_lr)]
    return pd.DataFrame(boards, columns=RANKING)


@lru_cache(maxsize=4096)  # rows share their recipes
def without_optimiser(recipe: str) -> str:
    """A recipe without its optimiser, which tells the lines of a table apart, not the tables."""
    settings = json.loads(recipe)
    return canonical({name: settings[name] for name in settings.keys() - {"optimiser", *OF_OPTIMISER}})


def _board(
    scored: list[Row], failed: Counter[tuple[Any, ...]], items: Items, known_default: float | None
) -> Iterator[Row]:
    """The lines of one evaluation: methods are compared within one training setting, the untrained base is in each."""
    untrained = [row for row in scored if is_untrained(row)]
    for setting in settings([row for row in scored if not is_untrained(row)]) or [[]]:
        shared = {name: (setting or untrained)[0][name] for name in [*EVALUATION, *TRAINING]}
        default_lr = known_default if known_default is not None else _default_rate(setting)
        methods = [_at_rates(group, default_lr) for group in group(setting, LINE)]
        methods += [_at_rates(group, None) for group in group(untrained, LINE)]
        methods.sort(key=lambda rates: (-_median(rates[0], "value"), rates[0][0]["method"]))
        baseline, plain = _baseline(methods)
        compared = compare_all([chosen for chosen, _ in methods], baseline, items)
        leads = len(methods) > 1 and _leads(methods[0][0], methods[1][0], items)
        for place, ((chosen, default), differences) in enumerate(zip(methods, compared, strict=True)):
            at_default = compare(default, plain, items) if differences["pairs"] else NOTHING_IN_COMMON
            line = _line(chosen, default) | differences
            line |= {"default_delta": at_default.mean, "default_low": at_default.low, "default_high": at_default.high}
            line["default_lr"] = None if is_untrained(chosen[0]) else default_lr
            line["failed"] = failed[values(as_trained(chosen[0]), FAILED_RUN)]
            yield shared | line | {"best": leads and place == 0}


def _baseline(methods: list[tuple[list[Row], list[Row]]]) -> tuple[list[Row], list[Row]]:
    """Plain LoRA at the chosen and the default rate, whatever its scores.

    By the default optimiser if there is that, with the fewest options, the newest version.
    """
    plain = [both for both in methods if both[0][0]["method"] == BASELINE]

    def distance(both: tuple[list[Row], list[Row]]) -> tuple[bool, int, int]:
        first = both[0][0]
        return first["optimiser"] != DEFAULT_OPTIMISER, len(first["options"]), -(first["method_version"] or 0)

    return min(plain, key=distance, default=([], []))


def _line(chosen: list[Row], default: list[Row]) -> Row:
    """One method by itself: medians over seeds."""
    first = chosen[0]
    values = [row["value"] for row in chosen]
    seconds = [one for one in map(init_seconds, chosen) if one is not None]
    return {
        **{name: first[name] for name in LINE},
        "default": _median(default, "value"),
        "lr": None if is_untrained(first) else first["lr"],
        "value": median(values),
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
        "n": int(_median(chosen, "n")),
        "stderr": _median(chosen, "stderr"),
        "validation_loss": _median(chosen, "validation_loss"),
        "init_seconds": median(seconds) if seconds else math.nan,
        "train_seconds": _median(chosen, "seconds_train"),
        "peak_memory_bytes": _median(chosen, "peak_memory_bytes"),
        "forgetting": _median(chosen, "forgetting"),
        "unadapted": max((row["unadapted"] or 0 for row in chosen), default=0),
        "contaminated": max((row["contaminated"] or 0 for row in chosen), default=0),
        "keys": " ".join(row["key"] for row in chosen),
    }


def _default_rate(rows: list[Row]) -> float | None:
    """The learning rate that most methods were run at; the lowest of several."""
    methods = Counter(rate for _, rate in {(row["method"], row["lr"]) for row in rows})
    return min(methods, key=lambda rate: (-methods[rate], rate)) if methods else None


def _at_rates(rows: list[Row], default_lr: float | None) -> tuple[list[Row], list[Row]]:
    """The rows of one method at the chosen learning rate and at the default one, one row per seed (the latest)."""
    rates: dict[float, dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: (row["lr"], row["seed"], row["created"])):
        rates.setdefault(row["lr"], {})[row["seed"]] = row
    by_rate = {rate: list(seeds.values()) for rate, seeds in rates.items()}
    most = max(map(len, by_rate.values()))  # a rate whose other seeds diverged would be judged by the lucky ones
    whole = [rate for rate, seeds in by_rate.items() if len(seeds) == most]
    losses = {rate: _median(by_rate[rate], "validation_loss") for rate in whole}
    measured = [rate for rate, loss in losses.items() if math.isfinite(loss)]
    default = by_rate.get(default_lr, []) if default_lr is not None else next(iter(by_rate.values()))
    if measured:
        return by_rate[min(measured, key=lambda rate: losses[rate])], default
    return default or by_rate[min(whole)], default


def _leads(first: list[Row], second: list[Row], items: Items) -> bool:
    found = compare(first, second, items)
    return found.mean > found.stderr  # False when either is unknown


def _median(rows: list[Row], column: str) -> float:
    values = [row[column] for row in rows if row[column] is not None]
    return float(median(values)) if values else math.nan
