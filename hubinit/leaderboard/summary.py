"""The summary: one row for each model, task, method, rank and optimiser, and beside them what papers report."""

from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from hubinit.leaderboard.reported import reported
from hubinit.leaderboard.rows import Amount, Count, JsonObject, Name, Number, OwnSeed, Row, Share, Text, schema_of
from hubinit.leaderboard.table import frame

Chance = Annotated[float, Field(ge=0, le=1)]


class SummaryRow(Row):
    """One line of the leaderboard; `hubinit.leaderboard.ranking.rank` says what the measured columns mean."""

    origin: Literal["measured", "reported"] = "measured"
    source: Text | None = Field(default=None, description="of a reported row: the paper and its table")
    model: Name = Field(description="Hub id; of a reported row, that of the alias the paper's name stands for")
    revision: Name | None = None
    dtype: Name | None = None
    task: Name = Field(description="that was scored")
    data_revision: Name | None = None
    limit: Count | None = None
    shots: Count | None = None
    judge: Name | None = None
    metric: Name = Field(description="that ranks the task")
    rank: Count | None = Field(default=None, description="of the table; so alpha")
    alpha: Amount | None = None
    rslora: bool | None = None
    target_modules: Text | None = None
    train_data: Text | None = None
    train_samples: Count | None = None
    validation_samples: Count | None = None
    recipe: Text | None = None
    data_seed: OwnSeed | None = Field(default=None, description="null: the run's; so the next two")
    init_seed: OwnSeed | None = None
    dropout_seed: OwnSeed | None = None
    method: Name = Field(description="initialisation")
    optimiser: Text | None = None
    method_version: Count | None = None
    options: JsonObject | None = None
    calibration_samples: Count | None = None
    calibration: JsonObject | None = None
    own_rank: Count | None = Field(
        default=None, description="of the adapter, where it is not the table's: see `settings`"
    )
    own_alpha: Amount | None = Field(default=None, description="likewise")
    default_lr: Amount | None = Field(default=None, description="that most methods of the table share")
    default: Number | None = Field(default=None, description="median over seeds at the default learning rate")
    lr: Amount | None = Field(default=None, description="chosen by validation loss")
    value: Number = Field(description="median over seeds; 0 to 1 for shares, as papers print it where it is reported")
    mean: Number | None = Field(default=None, description="over seeds")
    std: Amount | None = Field(default=None, description="over seeds")
    seeds: Count | None = Field(default=None, description="that were scored at this rate")
    n: Count | None = Field(default=None, description="questions")
    stderr: Amount | None = Field(default=None, description="of the questions, median over seeds")
    validation_loss: Number | None = Field(default=None, description="median over seeds")
    delta: Number | None = Field(default=None, description="mean difference to plain LoRA")
    delta_stderr: Amount | None = Field(default=None, description="of both seeds and questions")
    delta_low: Number | None = Field(default=None, description="of the 95 % interval")
    delta_high: Number | None = None
    pairs: Count | None = Field(default=None, description="seeds that both have")
    paired: bool | None = Field(default=None, description="question by question; false: by seed only")
    p: Chance | None = Field(default=None, description="of the difference by itself")
    p_corrected: Chance | None = Field(default=None, description="Holm, over the methods of one table")
    mark: Literal["better", "worse"] | None = Field(default=None, description="than LoRA, at 5 % after correction")
    items_needed: Count | None = None
    seeds_needed: Count | None = None
    place: Count | None = Field(
        default=None, description="with ties; 1: not significantly worse than the leader; null: not tested"
    )
    best_share: Share | None = Field(default=None, description="of bootstrap samples in which it is the best")
    loss_delta: Number | None = Field(default=None, description="of the validation loss; below 0 is better")
    loss_low: Number | None = None
    loss_high: Number | None = None
    loss_p: Chance | None = Field(default=None, description="of it, Holm over the methods of one table")
    reach_steps: Amount | None = Field(default=None, description="until the training loss is that of LoRA's end")
    reach_seconds: Amount | None = Field(default=None, description="the same, with initialisation")
    default_delta: Number | None = Field(default=None, description="the difference at the default rate")
    default_low: Number | None = None
    default_high: Number | None = None
    init_seconds: Amount | None = Field(default=None, description="calibration and initialisation")
    train_seconds: Amount | None = Field(default=None, description="of training alone")
    peak_memory_bytes: Amount | None = None
    forgetting: Number | None = Field(default=None, description="nats on neutral text, after − before")
    unadapted: Count | None = None
    contaminated: Count | None = None
    failed: Count | None = Field(default=None, description="runs without a score")
    best: bool | None = Field(default=None, description="leads the next by more than its uncertainty")
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
