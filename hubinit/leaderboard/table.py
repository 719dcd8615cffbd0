"""From run results to the leaderboard's table: one row per (run, task, metric).

Pure functions on data frames. Reading results and writing repos is done elsewhere (`hubinit.records`, `hubinit.hub.tables`).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from hubinit.records import Provenance, RunResult, Score
from hubinit.specs import CalibrationSpec, Recipe

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("kind", pa.string()),
        ("dtype", pa.string()),  # of the base's weights; null: hubinit 0.1, which chose it and did not say
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
        ("validation_samples", pa.int64()),
        ("recipe", pa.string()),  # JSON, without what changes no number and without defaults
        ("steps", pa.int64()),
        ("calibration_samples", pa.int64()),  # examples the pass saw; hubinit 0.1: that were asked for
        ("calibration", pa.string()),  # JSON of its other settings, without defaults
        ("unadapted", pa.int64()),  # target modules that the method left without an adapter
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
ANY_SAMPLES = CalibrationSpec().samples  # the default, so that it is left out
IDENTITY = ["key", "task", "data_revision", "limit", "shots", "metric"]  # what makes a row the same row


def rows(results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """One row per run, task and metric; a run without scores gives one row with its status and reason."""
    return [
        {**_run(result), **_provenance((score and score.provenance) or result.provenance), **_score(score)}
        for result in results
        for score in (result.scores or (None,))
    ]


def table(results: Iterable[RunResult]) -> pd.DataFrame:
    """`rows` as a data frame with the columns of `SCHEMA`."""
    return frame(rows(results))


def frame(records: Iterable[Mapping[str, Any]], schema: pa.Schema = SCHEMA) -> pd.DataFrame:
    """Rows as a data frame with the columns and types of `schema`; unknown columns are left out, missing ones are null."""
    plain = [dict(record) for record in records]
    for record in plain:
        if record.get("recipe"):
            record["recipe"] = _without_defaults(record["recipe"])
    rows = pa.Table.from_pylist(plain, schema=schema)
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return pd.DataFrame(rows.to_pandas(types_mapper=nullable.get))


def _without_defaults(recipe: str) -> str:
    """A recipe as this version writes it; version 0.1 wrote every field, which would split its rows from new ones."""
    try:
        return Recipe.model_validate_json(recipe).canonical_json()
    except ValueError:  # of a newer version
        return recipe


def merge(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """All rows of both, each once.

    Of two rows with the same identity the one created later stays. The row of a failed run goes when the run has scores.
    The outcome does not depend on the order in which tables are merged, so concurrent publishers agree on it.
    """
    both = pd.concat([old, new], ignore_index=True)[COLUMNS]
    both = both.sort_values(
        [*IDENTITY, "created", "status", "value", "stderr", "adapter_sha256"], kind="stable", na_position="first"
    )
    both = both.drop_duplicates(IDENTITY, keep="last")
    scored = set(both.loc[both["task"].notna(), "key"])
    return both[both["task"].notna() | ~both["key"].isin(scored)].reset_index(drop=True)


def _run(result: RunResult) -> dict[str, Any]:
    spec, calibration = result.spec, result.spec.calibration
    memory = [cost.peak_memory_bytes for cost in result.costs.values() if cost.peak_memory_bytes is not None]
    targets = spec.target_modules
    return {
        "key": result.key,
        "status": result.status,
        "reason": result.reason,
        "model": spec.model.id,
        "revision": spec.model.revision,
        "kind": spec.model.kind,
        "dtype": spec.model.dtype if spec.model.dtype != "auto" else None,
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
        "validation_samples": spec.data.validation_samples if spec.data else None,
        "recipe": spec.recipe.canonical_json() if spec.recipe else None,
        "steps": _steps(result),
        "calibration_samples": result.calibrated_on,
        "calibration": calibration.model_copy(update={"samples": ANY_SAMPLES}).canonical_json()
        if calibration
        else None,
        "unadapted": len(result.left_out),
        "validation_loss": result.validation_loss,
        **{f"seconds_{stage}": cost.seconds for stage, cost in result.costs.items()},
        "peak_memory_bytes": max(memory) if memory else None,
        "trainable_parameters": result.trainable_parameters,
        "adapter_bytes": result.adapter_bytes,
        "adapter_sha256": result.adapter_sha256,
    }


def _provenance(provenance: Provenance) -> dict[str, Any]:
    return {
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
