"""From run results to the leaderboard: one row per (run, task, metric), and a ranking that says how sure it is.

Pure functions on data frames; reading results and writing repos is done elsewhere (`hubinit.bench.results`,
`hubinit.hub.publish`).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from hubinit.bench.results import RunResult, Score

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("kind", pa.string()),
        ("method", pa.string()),
        ("method_version", pa.int64()),
        ("options", pa.string()),  # JSON
        ("rank", pa.int64()),
        ("alpha", pa.float64()),
        ("rslora", pa.bool_()),
        ("target_modules", pa.string()),
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("train_data", pa.string()),  # task names joined by "+"
        ("train_samples", pa.int64()),
        ("recipe", pa.string()),  # JSON
        ("steps", pa.int64()),
        ("calibration_samples", pa.int64()),
        ("task", pa.string()),  # null in the one row of a run without scores
        ("data_revision", pa.string()),
        ("limit", pa.int64()),
        ("shots", pa.int64()),
        ("metric", pa.string()),
        ("primary", pa.bool_()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("stderr", pa.float64()),
        ("invalid_rate", pa.float64()),
        ("validation_loss", pa.float64()),
        *((f"seconds_{stage}", pa.float64()) for stage in ("load", "calibrate", "initialise", "train", "evaluate")),
        ("peak_memory_bytes", pa.int64()),
        ("trainable_parameters", pa.int64()),
        ("adapter_bytes", pa.int64()),
        ("adapter_sha256", pa.string()),
        ("versions", pa.string()),  # JSON
        ("hardware", pa.string()),  # JSON
        ("git_sha", pa.string()),
        ("git_dirty", pa.bool_()),
        ("command", pa.string()),
        ("created", pa.string()),
    ]
)
COLUMNS = list(SCHEMA.names)
IDENTITY = ["key", "task", "data_revision", "limit", "shots", "metric"]  # what makes a row the same row
EVALUATION = ["model", "revision", "task", "data_revision", "limit", "shots", "metric"]  # what one ranking compares
TRAINING = ["rank", "train_data", "train_samples", "recipe"]  # what every method of one ranking shares
BASELINE = "lora"


def rows(results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """One row per run, task and metric; a run without scores gives one row with its status and reason."""
    return [{**_run(result), **_score(score)} for result in results for score in (result.scores or (None,))]


def table(results: Iterable[RunResult]) -> pd.DataFrame:
    """`rows` as a data frame with the columns of `SCHEMA`."""
    return frame(rows(results))


def frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the columns and types of `SCHEMA`; unknown columns are left out, missing ones are null."""
    rows = pa.Table.from_pylist([dict(record) for record in records], schema=SCHEMA)
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return pd.DataFrame(rows.to_pandas(types_mapper=nullable.get))


def merge(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """All rows of both, each once.

    Of two rows with the same identity the one created later stays. The row of a failed run goes when the run has scores.
    The outcome does not depend on the order in which tables are merged, so concurrent publishers agree on it.
    """
    both = pd.concat([old, new], ignore_index=True)[COLUMNS]
    both = both.sort_values([*IDENTITY, "created", *COLUMNS], kind="stable", na_position="first")
    both = both.drop_duplicates(IDENTITY, keep="last")
    scored = set(both.loc[both["task"].notna(), "key"])
    return both[both["task"].notna() | ~both["key"].isin(scored)].reset_index(drop=True)


def rank(runs: pd.DataFrame) -> pd.DataFrame:
    """Ranks the methods of each model and task by their primary metric.

    The learning rate is chosen by validation loss (the lowest median over seeds), never by score; without validation losses
    the default one is taken: the rate that most methods of the table were run at.

    Args:
        runs: as from `table` or `merge`.

    Returns:
        One row per evaluation, training setting, method and its options, best first: `default_lr` and `default` (median at
        that rate), `lr` and `value` (median at the chosen rate), `std` and `seeds`, `n` and `stderr` (binomial, median over
        seeds), `delta`, `delta_stderr` and `pairs` (mean difference to plain LoRA over common seeds), `init_seconds`
        (median; calibration and initialisation), `failed` (runs without a score), `best` (leads the next method by more than
        the uncertainty of their difference).
    """
    scored = runs[runs["primary"].fillna(False).astype(bool) & runs["value"].notna()]
    boards = [_board(board, runs) for _, board in scored.groupby(EVALUATION, dropna=False, sort=True)]
    return pd.concat(boards, ignore_index=True) if boards else pd.DataFrame(columns=RANKING)


RANKING = [
    *EVALUATION,
    *TRAINING,
    "method",
    "options",
    "default_lr",
    "default",
    "lr",
    "value",
    "std",
    "seeds",
    "n",
    "stderr",
    "delta",
    "delta_stderr",
    "pairs",
    "init_seconds",
    "failed",
    "best",
]


def _board(scored: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The ranking of one evaluation; methods are compared within one training setting, the untrained base is in each."""
    trained = scored[scored["method"] != "none"]
    untrained = scored[scored["method"] == "none"]
    settings = [group for _, group in trained.groupby(TRAINING, dropna=False, sort=True)] or [trained]
    return pd.concat([_setting(group, untrained, runs) for group in settings], ignore_index=True)


def _setting(trained: pd.DataFrame, untrained: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    rates = trained.groupby("lr")["method"].nunique()
    default_lr = float(rates[rates == rates.max()].index.min()) if len(rates) else np.nan
    setting = (trained if len(trained) else untrained).iloc[0]
    methods = {
        (str(method), str(options)): _at_rates(group, default_lr)
        for (method, options), group in trained.groupby(["method", "options"], sort=True)
    }
    if len(untrained):
        methods[("none", "{}")] = _at_rates(untrained, 0.0)
    baseline = next((group for (method, _), (group, _) in methods.items() if method == BASELINE), None)
    lines = []
    for (method, options), (chosen, default) in methods.items():
        delta, uncertainty, pairs = _paired(chosen, baseline if method != BASELINE else None)
        lines.append(
            {column: setting[column] for column in [*EVALUATION, *TRAINING]}
            | {
                "method": method,
                "options": options,
                "default_lr": default_lr if method != "none" else np.nan,
                "default": default["value"].median(),
                "lr": chosen["lr"].iloc[0] if method != "none" else np.nan,
                "value": chosen["value"].median(),
                "std": chosen["value"].std(ddof=1),
                "seeds": chosen["seed"].nunique(),
                "n": int(chosen["n"].median()),
                "stderr": chosen["stderr"].median(),
                "delta": delta,
                "delta_stderr": uncertainty,
                "pairs": pairs,
                "init_seconds": _init_seconds(chosen).median(),
                "failed": _failures(runs, setting, method, options),
                "best": False,
            }
        )
    board = pd.DataFrame(lines, columns=RANKING).sort_values(["value", "method"], ascending=[False, True])
    board["best"] = False
    if len(board) > 1:
        first, second = (methods[name][0] for name in zip(board["method"][:2], board["options"][:2], strict=True))
        lead, uncertainty, _ = _paired(first, second)
        board.loc[board.index[0], "best"] = bool(lead > uncertainty)
    return board


def _at_rates(group: pd.DataFrame, default_lr: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows at the chosen learning rate and at the default one, one row per seed."""
    group = group.sort_values("created").drop_duplicates(["lr", "seed"], keep="last")
    default = group[group["lr"] == default_lr]
    losses = group.groupby("lr")["validation_loss"].median().dropna()
    if len(losses):
        return group[group["lr"] == losses.idxmin()], default
    return (default if len(default) else group[group["lr"] == group["lr"].min()]), default


def _paired(a: pd.DataFrame, b: pd.DataFrame | None) -> tuple[float, float, int]:
    """Mean of `a − b` over the seeds both have, its standard error, and the number of such seeds.

    With one common seed the error comes from the two binomial standard errors. A side that is always the same (the
    untrained base has one seed) is compared with every seed of the other.
    """
    if b is None or not len(a) or not len(b):
        return np.nan, np.nan, 0
    left, right = a.set_index("seed")["value"], b.set_index("seed")["value"]
    if (a["method"] == "none").all():
        left = pd.Series(left.iloc[0], index=right.index)
    if (b["method"] == "none").all():
        right = pd.Series(right.iloc[0], index=left.index)
    difference = (left - right).dropna().astype(float)
    if not len(difference):
        return np.nan, np.nan, 0
    if len(difference) > 1:
        error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    else:
        error = float(np.hypot(a["stderr"].fillna(np.nan).median(), b["stderr"].fillna(np.nan).median()))
    return float(difference.mean()), error, len(difference)


def _init_seconds(group: pd.DataFrame) -> pd.Series:
    stages = group[["seconds_calibrate", "seconds_initialise"]]
    return stages.sum(axis=1, min_count=1)


def _failures(runs: pd.DataFrame, setting: pd.Series, method: str, options: str) -> int:
    """Failed or diverged runs of this method in this training setting."""
    same = (runs["method"] == method) & (runs["options"] == options) & runs["task"].isna()
    for column in ["model", "revision", *TRAINING] if method != "none" else ["model", "revision"]:
        value = setting[column]
        same &= runs[column].isna() if pd.isna(value) else (runs[column] == value).fillna(False)
    return int(runs.loc[same, "key"].nunique())


def _run(result: RunResult) -> dict[str, Any]:
    spec, provenance = result.spec, result.provenance
    memory = [cost.peak_memory_bytes for cost in result.costs.values() if cost.peak_memory_bytes is not None]
    targets = spec.target_modules
    return {
        "key": result.key,
        "status": result.status,
        "reason": result.reason,
        "model": spec.model.id,
        "revision": spec.model.revision,
        "kind": spec.model.kind,
        "method": spec.method.name,
        "method_version": spec.method.version,
        "options": _json(spec.method.options),
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "target_modules": targets if isinstance(targets, str) else ",".join(targets),
        "lr": spec.learning_rate,
        "seed": spec.seed,
        "train_data": "+".join(spec.data.tasks) if spec.data else None,
        "train_samples": spec.data.samples if spec.data else None,
        "recipe": _json(spec.recipe.model_dump(mode="json")) if spec.recipe else None,
        "steps": _steps(result),
        "calibration_samples": spec.calibration.samples if spec.calibration else None,
        "validation_loss": result.validation_loss,
        **{f"seconds_{stage}": cost.seconds for stage, cost in result.costs.items()},
        "peak_memory_bytes": max(memory) if memory else None,
        "trainable_parameters": result.trainable_parameters,
        "adapter_bytes": result.adapter_bytes,
        "adapter_sha256": result.adapter_sha256,
        "versions": _json(provenance.versions),
        "hardware": _json(provenance.hardware),
        "git_sha": provenance.git_sha,
        "git_dirty": provenance.git_dirty,
        "command": provenance.command,
        "created": provenance.created,
    }


def _score(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    return {
        "task": score.task,
        "data_revision": score.eval.revision,
        "limit": score.eval.limit,
        "shots": score.eval.shots,
        "metric": score.metric,
        "primary": score.primary,
        "value": score.value,
        "n": score.n,
        "stderr": score.stderr,
        "invalid_rate": score.invalid_rate,
    }


def _steps(result: RunResult) -> int | None:
    if result.spec.recipe and result.spec.recipe.steps:
        return result.spec.recipe.steps
    return result.curve[-1].step if result.curve else None


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without a score, with their reason."""
    failed = runs[runs["task"].isna()].sort_values(["model", "method", "lr", "seed"])
    return failed[["model", "method", "rank", "lr", "seed", "status", "reason"]].reset_index(drop=True)
