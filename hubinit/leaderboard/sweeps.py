"""Behind the lines of a summary: their runs, by learning rate and by seed."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
import pyarrow as pa

from hubinit.leaderboard.comparison import Row
from hubinit.leaderboard.curves import Curve, read_curve
from hubinit.leaderboard.ranking import EVALUATION, SCORED_ON, without_optimiser
from hubinit.leaderboard.ranking import LINE as OF_LINE
from hubinit.leaderboard.settings import NO_GUEST, TRAINING, as_trained

BOARD = (*EVALUATION, *TRAINING)
LINE = (*BOARD, *OF_LINE)


def name_of(row: Mapping[str, Any], columns: Iterable[str] = LINE) -> str:
    """Ten hex digits of a line, or of the table it is in.

    They stay the same when more seeds or learning rates come, and when a newer hubinit tells lines apart by more columns.
    """
    values = {name: str(row[name]) for name in columns if row[name] is not None}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]


def method_name(row: Mapping[str, Any]) -> str:
    """The name of a method in a setting, whatever it is scored on."""
    return name_of(row, (name for name in LINE if name not in SCORED_ON))


def records(rows: pd.DataFrame) -> list[Row]:
    """Rows as plain values: None for what is missing, whole numbers as int."""
    found: list[Row] = pa.Table.from_pandas(rows, preserve_index=False).to_pylist()
    return found


@dataclass(frozen=True)
class Rate:
    """What the seeds of one method did at one learning rate.

    Attributes:
        lr: the learning rate.
        seeds: how many.
        low: the lowest score of a seed.
        value: the median score.
        high: the highest score.
        loss: the median validation loss; NaN where it is unknown.
    """

    lr: float
    seeds: int
    low: float
    value: float
    high: float
    loss: float


class Runs:
    """The scored runs of a leaderboard, found by line and by key."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_line: dict[str, list[Row]] = {}
        self.by_key: dict[str, list[Row]] = {}
        for row in rows:
            self.by_key.setdefault(row["key"], []).append(row)
            if row["primary"] and row["value"] is not None:
                recipe = row["recipe"] and without_optimiser(row["recipe"]) if row["optimiser"] else row["recipe"]
                self.by_line.setdefault(name_of(row | NO_GUEST | {"recipe": recipe}), []).append(row)

    def behind(self, line: Row) -> list[Row]:
        """The runs at a line's chosen learning rate, one for each seed."""
        found = [row for key in (line["keys"] or "").split() for row in self.by_key.get(key, ())]
        return [row for row in found if row["primary"] and all(row[name] == line[name] for name in SCORED_ON)]

    def sweep(self, line: Row) -> list[Rate]:
        """A line's runs at all of its learning rates, the lowest first."""
        rates: dict[float, list[Row]] = {}
        for row in self.by_line.get(name_of(as_trained(line))) or self.behind(line):
            rates.setdefault(row["lr"], []).append(row)
        return [_rate(lr, rows) for lr, rows in sorted(rates.items())]

    def curves(self, line: Row) -> list[Curve]:
        """The learning curves of a line at its chosen learning rate, one for each seed that has one."""
        return [curve for row in self.behind(line) if (curve := read_curve(row["curve"])) is not None]


def _rate(lr: float, rows: list[Row]) -> Rate:
    values = [row["value"] for row in rows]
    losses = [row["validation_loss"] for row in rows if row["validation_loss"] is not None]
    return Rate(lr, len(rows), min(values), median(values), max(values), median(losses) if losses else math.nan)
