"""From run results to the leaderboard's table: one row per (run, task, metric).

Pure functions on data frames. Reading results and writing repos is done elsewhere (`hubinit.records`, `hubinit.hub.tables`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa

from hubinit.leaderboard.curves import write_curve
from hubinit.leaderboard.rows import RunRow, schema_of
from hubinit.leaderboard.settings import OWN_SEEDS
from hubinit.records import Provenance, RunResult, Score
from hubinit.specs import CalibrationSpec, Recipe

SCHEMA = schema_of(RunRow)
COLUMNS = list(SCHEMA.names)
ANY_SAMPLES = CalibrationSpec().samples  # the default, so that it is left out
IDENTITY = ["key", "task", "data_revision", "limit", "shots", "judge", "metric"]  # what makes a row the same row
SETTINGS = [  # what a key stands for
    *("model", "revision", "method", "method_version", "options", "rank", "alpha", "rslora", "target_modules"),
    *("lr", "seed", *OWN_SEEDS, "train_data", "train_samples", "validation_samples", "recipe"),
]
ADAPTER = ["adapter_sha256", "validation_loss"]  # what its run left
SCORE = ["primary", "value", "n", "stderr"]  # what an evaluation found
DECISIVE = [*IDENTITY, *SETTINGS, *ADAPTER, *SCORE]


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
    of_runs = schema.equals(SCHEMA)  # the recipe of a summary's line is without its optimiser
    for record in plain:
        if of_runs and record.get("recipe"):
            record |= _read_recipe(record["recipe"])
    rows = pa.Table.from_pylist(plain, schema=schema)
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return pd.DataFrame(rows.to_pandas(types_mapper=nullable.get))


@lru_cache(maxsize=4096)  # rows share their recipes
def _read_recipe(text: str) -> dict[str, str]:
    """A recipe as this version writes it, and its optimiser, which older rows do not name.

    Version 0.1 wrote every field of a recipe, which would split its rows from new ones.
    """
    try:
        recipe = Recipe.model_validate_json(text)
    except ValueError:  # of a newer version, which says its optimiser itself
        return {}
    return {"recipe": recipe.canonical_json(), "optimiser": recipe.optimiser_label}


def merge(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """All rows of both, each once; see `settle`, whose contenders are left out."""
    return settle(pd.concat([old, new], ignore_index=True))[0]


def settle(claims: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """The rows that stand, each once, and the position and reason of each that contradicts one of them.

    The first scored row of a key says which adapter the key is, and the first row of an evaluation what it scored: whatever
    their `created` says, later rows may add evaluations of the same adapter and repeat what is there. The row of a failed
    run goes when the run has scores.
    """
    claims = claims[COLUMNS]
    records: list[dict[str, Any]] = [
        {name: None if pd.isna(value) else value for name, value in zip(DECISIVE, values, strict=True)}
        for values in claims[DECISIVE].itertuples(index=False)
    ]
    runs: dict[str, dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    standing: list[int] = []
    contending: dict[int, str] = {}
    for position, record in sorted(enumerate(records), key=lambda item: item[1]["task"] is None):  # scores first
        identity, run = tuple(record[name] for name in IDENTITY), runs.get(record["key"], record)
        wrong = [name for name in SETTINGS if None not in (record[name], run[name]) and record[name] != run[name]]
        if record["task"] is not None:
            wrong += [name for name in ADAPTER if record[name] != run[name]]
            wrong += [name for name in SCORE if record[name] != rows.get(identity, record)[name]]
        if wrong:
            contending[position] = f"another row of this key stands, with another {', '.join(wrong)}"
        elif identity not in rows and (record["task"] is not None or record["key"] not in runs):
            standing.append(position)
            rows[identity] = runs[record["key"]] = record
    kept = claims.iloc[standing].sort_values(IDENTITY, kind="stable", na_position="first")
    return kept.reset_index(drop=True), contending


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
        "dtype": spec.model.stored_in if spec.model.dtype != "auto" else None,
        "method": spec.method.name,
        "method_version": spec.method.version,
        "options": _json(spec.method.options),
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "target_modules": targets if isinstance(targets, str) else ",".join(targets),
        "lr": spec.learning_rate,
        "seed": spec.seed,
        **{name: getattr(spec, name) for name in OWN_SEEDS},
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
        "forgetting": _forgetting(result),
        "curve": write_curve(result.curve),
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
        "judge": score.eval.judge,
        "metric": score.metric,
        "primary": score.primary,
        "value": score.value,
        "n": score.n,
        "stderr": score.stderr,
        "invalid_rate": score.invalid_rate,
        "items": score.items,
        "judge_version": score.judge_version,
        "contaminated": score.contaminated,
    }


def _forgetting(result: RunResult) -> float | None:
    """What the diagnostics of a run say, where they measured it."""
    found = result.diagnostics.forgetting if result.diagnostics else None
    return found.difference if found and math.isfinite(found.difference) else None


def _steps(result: RunResult) -> int | None:
    if result.spec.recipe and result.spec.recipe.steps:
        return result.spec.recipe.steps
    return result.curve[-1].step if result.curve else None


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without a score, with their reason; one that was only trained, as a search does, failed at nothing."""
    failed = runs[runs["task"].isna() & (runs["status"] != "ok")].sort_values(
        ["model", "method", "optimiser", "lr", "seed"]
    )
    return failed[["model", "method", "optimiser", "rank", "lr", "seed", "status", "reason"]].reset_index(drop=True)


def ranked_items(runs: pd.DataFrame) -> set[tuple[str, str]]:
    """sha256 of the item records and metric of each score that ranks."""
    ranking = runs[runs["primary"].fillna(False).astype(bool) & runs["items"].notna()]
    return set(zip(ranking["items"], ranking["metric"], strict=True))
