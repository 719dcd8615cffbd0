"""The summary: one row for each model, task, method, rank and optimiser, and beside them what papers report."""

from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from hubinit.leaderboard.reported import reported
from hubinit.leaderboard.rows import Amount, Count, JsonObject, Name, Number, Row, Share, Text, schema_of
from hubinit.leaderboard.table import frame

Chance = Annotated[float, Field(ge=0, le=1)]


class SummaryRow(Row):
    """One line of the leaderboard; `hubinit.leaderboard.ranking.rank` says what the measured columns mean."""

    origin: Literal["measured", "reported"] = "measured"
    source: Text | None = Field(default=None, description="of a reported row: the paper and its table")
    model: Name = Field(description="Hub id; of a reported row, that of the alias the paper's name stands for")
    revision: Name | None = None
    dtype: Name | None = None
    task: Name
    data_revision: Name | None = None
    limit: Count | None = None
    shots: Count | None = None
    judge: Name | None = None
    metric: Name
    rank: Count | None = None
    alpha: Amount | None = None
    rslora: bool | None = None
    target_modules: Text | None = None
    train_data: Text | None = None
    train_samples: Count | None = None
    validation_samples: Count | None = None
    recipe: Text | None = None
    data_seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="null: the run's; so the next two")
    init_seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    dropout_seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    method: Name
    optimiser: Text | None = None
    method_version: Count | None = None
    options: JsonObject | None = None
    calibration_samples: Count | None = None
    calibration: JsonObject | None = None
    default_lr: Amount | None = None
    default: Number | None = Field(default=None, description="median over seeds at the default learning rate")
    lr: Amount | None = Field(default=None, description="chosen by validation loss")
    value: Number = Field(description="median over seeds; 0 to 1 for shares, as papers print it where it is reported")
    mean: Number | None = None
    std: Amount | None = None
    seeds: Count | None = None
    n: Count | None = None
    stderr: Amount | None = None
    validation_loss: Number | None = None
    delta: Number | None = Field(default=None, description="mean difference to plain LoRA")
    delta_stderr: Amount | None = None
    delta_low: Number | None = Field(default=None, description="of the 95 % interval")
    delta_high: Number | None = None
    pairs: Count | None = Field(default=None, description="seeds that both have")
    paired: bool | None = Field(default=None, description="question by question; false: by seed only")
    p: Chance | None = None
    p_corrected: Chance | None = Field(default=None, description="Holm, over the methods of one table")
    mark: Literal["better", "worse"] | None = Field(default=None, description="than LoRA, at 5 % after correction")
    items_needed: Count | None = None
    seeds_needed: Count | None = None
    place: Count | None = Field(default=None, description="with ties; 1: not significantly worse than the leader")
    best_share: Share | None = Field(default=None, description="of bootstrap samples in which it is the best")
    loss_delta: Number | None = Field(default=None, description="of the validation loss; below 0 is better")
    loss_low: Number | None = None
    loss_high: Number | None = None
    reach_steps: Amount | None = None
    reach_seconds: Amount | None = None
    default_delta: Number | None = None
    default_low: Number | None = None
    default_high: Number | None = None
    init_seconds: Amount | None = None
    train_seconds: Amount | None = None
    peak_memory_bytes: Amount | None = None
    forgetting: Number | None = None
    unadapted: Count | None = None
    contaminated: Count | None = None
    failed: Count | None = None
    best: bool | None = None
    keys: Text | None = Field(default=None, description="of the runs behind it, with spaces between")


SCHEMA = schema_of(SummaryRow)


def summarise(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking (from `rank`) with the columns and types of `SCHEMA`, and the reported rows below."""
    rows = ranking.astype(object).where(ranking.notna(), None).itertuples(index=False)
    measured = [{"origin": "measured"} | dict(zip(ranking.columns, row, strict=True)) for row in rows]
    return frame([*measured, *reported()], SCHEMA)


def as_ranking(summary: pd.DataFrame) -> pd.DataFrame:
    """The measured rows of a summary, to be printed as a ranking."""
    return summary[summary["origin"] == "measured"].reset_index(drop=True)
