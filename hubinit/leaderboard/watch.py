"""A refresh of a leaderboard against the last one: what became worse beyond its noise, and what changed beside it.

Lines are matched by what was asked for, not by what it was made with: another commit of the base or the data, or another version
of a method or a library, is a change that the report names. Scores and losses are paired by seed, and scores by question where
the values are known; times by seed, as ratios. All tests of one report are corrected together (Holm), so that a refresh of many
lines does not cry wolf.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from hubinit.leaderboard.comparison import Row, by_seed, compare, compare_losses, init_seconds
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.paired import Difference, two_way
from hubinit.leaderboard.ranking import EVALUATION, METHOD
from hubinit.leaderboard.settings import TRAINING
from hubinit.leaderboard.statistics import ALPHA, holm
from hubinit.records import Record

MADE_WITH = ("revision", "data_revision", "method_version", "versions", "hardware", "judge_version")
LINE = [name for name in [*EVALUATION, *TRAINING, *METHOD, "lr"] if name not in MADE_WITH]
SLOWER = 1.1  # ratio of seconds below which nobody minds
ALONE = 1.5  # the same for one seed, whose noise is unknown
BIGGER = 1.05  # ratio of bytes
COLUMNS = ("validation_loss", "peak_memory_bytes", "adapter_bytes")
SHOWN = 8  # libraries whose versions a change names
Kind = Literal[
    "score", "validation loss", "init seconds", "train seconds", "peak memory", "adapter bytes", "gone", "failed"
]
Cost = Callable[[Row], float | None]
COSTS: dict[Kind, tuple[Cost, float]] = {
    "init seconds": (init_seconds, SLOWER),
    "train seconds": (lambda row: row["seconds_train"], SLOWER),
    "peak memory": (lambda row: row["peak_memory_bytes"], BIGGER),
    "adapter bytes": (lambda row: row["adapter_bytes"], 1.0),
}


class Finding(Record):
    """One thing that is worse (or better) in the new leaderboard than in the old, of one line.

    `old` and `new` are means over the seeds that both have; `change` is their difference, of costs the ratio. `p` is corrected.
    """

    kind: Kind
    worse: bool
    model: str
    task: str | None
    metric: str | None = None
    method: str
    lr: float | None
    old: float | None = None
    new: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0
    keys: tuple[str, ...] = ()
    reason: str = ""


class Change(Record):
    """What both were made with, where it differs, and how many lines it concerns."""

    what: str
    old: str
    new: str
    lines: int


class Report(Record):
    """A refresh against the last: findings (the worse ones first), changes, and how many lines were compared."""

    compared: int
    added: int
    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]

    @property
    def worse(self) -> bool:
        """Whether anything is worse beyond its noise."""
        return any(one.worse for one in self.findings)


class _Test(NamedTuple):
    finding: Finding
    difference: Difference
    sign: int  # +1: more is better
    floor: float  # of the change, below which it is not reported


def watch(old: pd.DataFrame, new: pd.DataFrame, old_items: Items, new_items: Items) -> Report:
    """Compares two leaderboards.

    Args:
        old: rows of the last one, columns of `RunRow`.
        new: rows of the refresh.
        old_items: values by question of the last one.
        new_items: those of the refresh.

    Returns:
        The report; scores are worse where the corrected p-value of their paired difference is below 5 %. Costs are worse where
        their ratio over seeds is, and is above a floor (10 % of time, 5 % of memory); with one seed above 50 % of time.
    """
    before, after = _lines(old), _lines(new)
    items = old_items | new_items
    both = [line for line in before if line in after]
    again = [line for line in both if _made(before[line]) != _made(after[line])]
    tests = [test for line in again for test in _tests(after[line], before[line], items)]
    p = holm([test.difference.p for test in tests])
    findings = [found for test, one in zip(tests, p, strict=True) if (found := _judge(test, one)) is not None]
    findings += [_found("gone", rows, reason="no longer scored") for line, rows in before.items() if line not in after]
    findings += list(_failed(old, new))
    findings.sort(key=lambda one: (not one.worse, one.kind, one.model, one.task or "", one.method))
    changes = _changes([(before[line], after[line]) for line in both])
    added = sum(line not in before for line in after)
    return Report(compared=len(both), added=added, findings=tuple(findings), changes=tuple(changes))


def _lines(runs: pd.DataFrame) -> dict[tuple[Any, ...], list[Row]]:
    """The scored rows of each line, one per seed: of several the newest."""
    scored = runs[runs["primary"].fillna(False).astype(bool) & runs["value"].notna()].sort_values(
        "created", kind="stable"
    )
    lines: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in _plain(scored):
        lines.setdefault(tuple(row[name] for name in LINE), {})[row["seed"]] = row
    return {line: [seeds[seed] for seed in sorted(seeds)] for line, seeds in lines.items()}


def _made(rows: list[Row]) -> list[tuple[Any, ...]]:
    """What tells rows that were run again from those that were only kept, which need no test."""
    costs = [name for name in rows[0] if name.startswith("seconds_")]
    return [tuple(row[name] for name in ("key", "created", "value", "items", *COLUMNS, *costs)) for row in rows]


def _tests(new: list[Row], old: list[Row], items: Items) -> Iterator[_Test]:
    """What can be tested about one line."""
    score = compare(new, old, items)
    if score.seeds:
        yield _Test(_found("score", new, old, "value", score), score, 1, 0.0)
    loss = compare_losses(new, old)
    if loss.seeds > 1:  # one seed does not say how much it varies
        yield _Test(_found("validation loss", new, old, "validation_loss", loss), loss, -1, 0.0)
    same_machine = {row["hardware"] for row in new} == {row["hardware"] for row in old}
    for kind, (cost, floor) in COSTS.items():
        if kind != "adapter bytes" and not same_machine:
            continue
        left, right = by_seed(new, old), by_seed(old, new)
        seeds = sorted(left.keys() & right.keys())
        pairs = [(cost(left[seed]), cost(right[seed])) for seed in seeds]
        known = [(float(x), float(y)) for x, y in pairs if x and y]
        if not known:
            continue
        ratios = np.log(np.array([x / y for x, y in known]))  # [seeds]
        ratio = two_way(ratios[:, None])  # [seeds, 1]
        finding = _found(kind, new).model_copy(
            update={
                "old": float(np.mean([y for _, y in known])),
                "new": float(np.mean([x for x, _ in known])),
                "change": math.exp(ratio.mean),
                "low": _finite(math.exp(ratio.low)) if len(known) > 1 else None,
                "high": _finite(math.exp(ratio.high)) if len(known) > 1 else None,
                "seeds": len(known),
            }
        )
        alone = ALONE if len(known) == 1 and "seconds" in kind else floor
        yield _Test(finding, ratio, -1, math.log(alone))


def _judge(test: _Test, p: float) -> Finding | None:
    """The finding of a test, where it is one; without a p-value (one seed's cost) the floor alone decides."""
    mean = test.difference.mean
    if not math.isfinite(mean) or abs(mean) <= test.floor or (math.isfinite(p) and p >= ALPHA):
        return None
    if not math.isfinite(p) and test.finding.kind == "score":
        return None
    return test.finding.model_copy(update={"worse": mean * test.sign < 0, "p": _finite(p)})


def _found(
    kind: Kind,
    rows: Sequence[Row],
    old: Sequence[Row] = (),
    column: str = "",
    difference: Difference | None = None,
    *,
    reason: str = "",
) -> Finding:
    first, seeds = rows[0], {row["seed"] for row in rows} & {row["seed"] for row in old}
    means = [
        float(np.mean([row[column] for row in side if row["seed"] in seeds and row[column] is not None]))
        if seeds and any(row["seed"] in seeds and row[column] is not None for row in side)
        else None
        for side in (old, rows)
    ]
    return Finding(
        kind=kind,
        worse=True,
        model=first["model"],
        task=first["task"],
        metric=first["metric"],
        method=first["method"],
        lr=first["lr"],
        old=means[0],
        new=means[1],
        change=_finite(difference.mean) if difference else None,
        low=_finite(difference.low) if difference else None,
        high=_finite(difference.high) if difference else None,
        seeds=difference.seeds if difference else len(rows),
        keys=tuple(sorted({row["key"] for row in rows})),
        reason=reason,
    )


def _failed(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[Finding]:
    """Runs without a score that had one, or were not there, before."""
    scored = set(old.loc[old["task"].notna(), "key"])
    known = set(old.loc[old["task"].isna(), "key"])
    for row in _plain(new[new["task"].isna()]):
        if row["key"] not in known:
            what = "had a score" if row["key"] in scored else "is new"
            yield _found("failed", [row], reason=f"{row['status']} ({what}): {row['reason']}")


def _changes(lines: Sequence[tuple[list[Row], list[Row]]]) -> Iterator[Change]:
    """What the matched lines were made with, where it differs."""
    counts: dict[tuple[str, str, str], int] = {}
    for old, new in lines:
        for name in MADE_WITH:
            before, after = _values(old, name), _values(new, name)
            if before == after:
                continue
            pairs = _named(before, after) if name in ("versions", "hardware") else [(name, before, after)]
            for what, was, now in pairs:
                counts[what, was, now] = counts.get((what, was, now), 0) + 1
    for (what, was, now), count in sorted(counts.items()):
        yield Change(what=what, old=was, new=now, lines=count)


def _values(rows: Sequence[Row], name: str) -> str:
    return "; ".join(sorted({str(row[name]) for row in rows if row[name] is not None}))


def _named(before: str, after: str) -> list[tuple[str, str, str]]:
    """Which entries of two JSON objects differ; the texts themselves where these are not one object each."""
    try:
        old, new = json.loads(before), json.loads(after)
    except ValueError:
        return [("versions or hardware", before, after)]
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [(name, str(old.get(name, "–")), str(new.get(name, "–"))) for name in names[:SHOWN]]


def _plain(rows: pd.DataFrame) -> list[Row]:
    return [
        {name: None if pd.isna(value) else value for name, value in zip(rows.columns, values, strict=True)}
        for values in rows.itertuples(index=False)
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
