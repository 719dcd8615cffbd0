"""Rows of the catalogue of start points: what they say, and which of two about the same repo is to be believed."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from huggingface_hub import HfApi
from pydantic import Field

from hubinit.errors import HubError
from hubinit.hub.cards import catalogue_card, initialisation_seconds
from hubinit.hub.claims import DISPUTES, MANIFEST_BYTES
from hubinit.hub.manifest import read_manifest
from hubinit.hub.revisions import fetch
from hubinit.leaderboard.rows import Amount, Count, Created, JsonObject, Name, Row, Text, schema_of
from hubinit.leaderboard.table import frame
from hubinit.records import MANIFEST, Manifest

Start = Literal["keep", "shift"]
PATH = "data/adapters-00000-of-00001.parquet"


class CatalogueRow(Row):
    """One pre-initialised adapter. `task` is None where the start does not depend on data; `options` is JSON.

    `calibration_samples`: how many examples the calibration saw.
    """

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)
    model: Name
    revision: Name | None
    method: Name
    options: JsonObject
    rank: Count
    alpha: Amount
    task: Text | None
    calibration_samples: Count | None
    bytes: Count | None
    start: Start
    anchor: bool
    seconds: Amount | None
    created: Created


CATALOGUE_SCHEMA = schema_of(CatalogueRow)
STATED = [
    "model",
    "revision",
    "method",
    "options",
    "rank",
    "alpha",
    "calibration_samples",
    "bytes",
    "anchor",
    "created",
]


def catalogue_row(manifest: Manifest, repo_id: str, start: Start, group: str | None = None) -> CatalogueRow:
    """The row of one adapter.

    Args:
        manifest: what it is.
        repo_id: where it is.
        start: whether the method starts at the base.
        group: the suite that it was made for, when that is more than one task.
    """
    result, spec = manifest.result, manifest.result.spec
    return CatalogueRow(
        repo=repo_id,
        model=spec.model.id,
        revision=spec.model.revision,
        method=spec.method.name,
        options=json.dumps(spec.method.options, sort_keys=True),
        rank=spec.rank,
        alpha=spec.alpha,
        task=(group or "+".join(spec.data.tasks)) if spec.data else None,
        calibration_samples=result.calibrated_on,
        bytes=result.adapter_bytes,
        start=start,
        anchor=manifest.anchored,
        seconds=initialisation_seconds(result),
        created=result.provenance.created,
    )


def catalogue_rows(items: Sequence[CatalogueRow]) -> pd.DataFrame:
    """The rows as a data frame."""
    return frame((item.model_dump() for item in items), CATALOGUE_SCHEMA)


def settle_catalogue(claims: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """The first row of each repo, and the position and reason of each later one that says something else."""
    claims = claims[CATALOGUE_SCHEMA.names]
    standing = claims.drop_duplicates("repo", keep="first").sort_values("repo", kind="stable").reset_index(drop=True)
    first = {row["repo"]: row for row in to_records(standing)}
    contending = {}
    for position, row in enumerate(to_records(claims)):
        if wrong := [name for name, value in row.items() if value != first[row["repo"]][name]]:
            contending[position] = f"another row of this repo stands, with another {', '.join(wrong)}"
    return standing, contending


def stated_by_repo(api: HfApi, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that say what the `hubinit.json` of their repo says."""
    proven = [_stated(api, str(repo)) for repo in rows["repo"].unique()[:DISPUTES]]
    stated = {row.repo: row.model_dump() for row in proven if row is not None}
    return rows[[_agrees(row, stated.get(row["repo"])) for row in to_records(rows)]]


def to_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries of plain values."""
    records: list[dict[str, Any]] = pa.Table.from_pandas(
        rows, schema=CATALOGUE_SCHEMA, preserve_index=False
    ).to_pylist()
    return records


def catalogue_markdown(repo_id: str, rows: pd.DataFrame, quarantined: int) -> str:
    """The card of the catalogue."""
    return catalogue_card(repo_id, to_records(rows), path=PATH, quarantined=quarantined)


def _stated(api: HfApi, repo: str) -> CatalogueRow | None:
    """What the manifest of a repo says; None when there is none that this user can read."""
    try:
        content = fetch(api, repo, MANIFEST, None, limit=MANIFEST_BYTES, repo_type="model")
        return None if content is None else catalogue_row(read_manifest(content, repo), repo, "keep")
    except (HubError, ValueError):
        return None


def _agrees(row: dict[str, Any], stated: dict[str, Any] | None) -> bool:
    return stated is not None and all(row[name] == stated[name] for name in STATED)
