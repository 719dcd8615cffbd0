"""Rows that many publishers merge into one parquet file with a card: the leaderboard and the catalogue of start points."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi
from pydantic import BaseModel, TypeAdapter

from hubinit.errors import HubError
from hubinit.hub.cards import catalogue_card, initialisation_seconds, leaderboard_card
from hubinit.hub.manifest import CARD, check_text
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import markdown
from hubinit.records import Manifest, Record, RunResult
from hubinit.remote import Commit, Operation, commit, ensure_repo, read_file, show

Item = TypeVar("Item", bound=BaseModel)
Start = Literal["keep", "shift"]


@dataclass(frozen=True)
class Table(Generic[Item]):
    """One kind of data set whose rows come from many publishers.

    Attributes:
        name: as in messages.
        noun: what its items are called.
        file: the parquet file in the data set.
        queued: the file of its items in the outbox.
        schema: of the rows.
        key: a column that every row has.
        items: reads and writes items as JSON.
        rows: items ─► rows.
        merge: old rows, new rows ─► all rows, each once, the same whoever came first.
        card: repo, rows ─► README.md.
    """

    name: str
    noun: str
    file: str
    queued: str
    schema: pa.Schema
    key: str
    items: TypeAdapter[list[Item]]
    rows: Callable[[Sequence[Item]], pd.DataFrame]
    merge: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    card: Callable[[str, pd.DataFrame], str]


def publish(
    api: HfApi, table: Table[Item], items: Sequence[Item], repo_id: str, *, private: bool = True
) -> Commit | None:
    """Adds the rows of `items` to a data set and renews its card.

    Any number of publishers may do this at the same time: rows are merged with those at the parent of the commit, and the
    commit is rebuilt when the parent has changed.

    Returns:
        The commit, or None when the data set had all rows before.

    Raises:
        HubError: the Hub refuses, the data set there is another one, or an item holds an access token.
    """
    check_text(to_json(table, items).decode(), f"a row of the {table.name}")
    new = table.rows(items)

    def build(parent: str | None) -> list[Operation]:
        old = read(api, table, repo_id, parent)
        merged = table.merge(old, new)
        card = table.card(repo_id, merged)
        check_text(card, CARD)
        operations: list[Operation] = [CommitOperationAdd(CARD, card.encode())]
        if not merged.equals(old):
            operations.append(CommitOperationAdd(table.file, parquet(table, merged)))
        return operations

    ensure_repo(api, repo_id, "dataset")
    done = commit(api, repo_id, "dataset", build, message=message(table, items))
    if not private:
        show(api, repo_id, "dataset")
    return done


def read(api: HfApi, table: Table[Any], repo_id: str, revision: str | None = None) -> pd.DataFrame:
    """The rows of a data set; none when it has none yet. Rows of an older hubinit lack columns, which are null then.

    Raises:
        HubError: it cannot be read, or holds something else.
    """
    content = read_file(api, repo_id, table.file, repo_type="dataset", revision=revision)
    try:
        rows = runs_table.frame(pq.read_table(io.BytesIO(content)).to_pylist() if content else (), table.schema)
        if rows[table.key].isna().any():
            raise ValueError(f"a row has no {table.key}")
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise HubError(
            f"{table.file} of {repo_id} is not a {table.name} of this version of hubinit; use another data set."
        ) from error
    return rows


def parquet(table: Table[Any], rows: pd.DataFrame) -> bytes:
    """The rows as one parquet file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def message(table: Table[Item], items: Sequence[Item]) -> str:
    """Title of the commit that adds these items; names the content."""
    text = json.dumps(sorted(item.model_dump_json() for item in items))
    return f"Add {len(items)} {table.noun} [{hashlib.sha256(text.encode()).hexdigest()[:12]}]"


def to_json(table: Table[Item], items: Sequence[Item]) -> bytes:
    """The items as JSON, for the outbox."""
    return table.items.dump_json(list(items))


class CatalogueRow(Record):
    """One pre-initialised adapter. `task` is None where the start does not depend on data; `options` is JSON.

    `calibration_samples`: how many examples the calibration saw.
    """

    repo: str
    model: str
    revision: str | None
    method: str
    options: str
    rank: int
    alpha: float
    task: str | None
    calibration_samples: int | None
    bytes: int | None
    start: Start
    anchor: bool
    seconds: float | None
    created: str


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


CATALOGUE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("repo", "model", "revision", "method", "options")),
        ("rank", pa.int64()),
        ("alpha", pa.float64()),
        ("task", pa.string()),
        ("calibration_samples", pa.int64()),
        ("bytes", pa.int64()),
        ("start", pa.string()),
        ("anchor", pa.bool_()),
        ("seconds", pa.float64()),
        ("created", pa.string()),
    ]
)


def _catalogue_rows(items: Sequence[CatalogueRow]) -> pd.DataFrame:
    return runs_table.frame((item.model_dump() for item in items), CATALOGUE_SCHEMA)


def _merge_catalogues(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """One row per repo: the one made last."""
    order = ["repo", "created", *(name for name in CATALOGUE_SCHEMA.names if name not in ("repo", "created"))]
    both = pd.concat([old, new], ignore_index=True).sort_values(order, kind="stable", na_position="first")
    return both.drop_duplicates("repo", keep="last").reset_index(drop=True)


def _catalogue_card(repo_id: str, rows: pd.DataFrame) -> str:
    records = pa.Table.from_pandas(rows, schema=CATALOGUE_SCHEMA, preserve_index=False).to_pylist()
    return catalogue_card(repo_id, records, path=CATALOGUE.file)


def _leaderboard_card(repo_id: str, rows: pd.DataFrame) -> str:
    return leaderboard_card(
        repo_id,
        markdown(rank(rows), runs_table.failures(rows)),
        runs=rows["key"].nunique(),
        rows=len(rows),
        models=sorted(rows["model"].unique()),
        path=LEADERBOARD.file,
    )


LEADERBOARD: Table[RunResult] = Table(
    name="leaderboard",
    noun="runs",
    file="data/runs-00000-of-00001.parquet",
    queued="results.json",
    schema=runs_table.SCHEMA,
    key="key",
    items=TypeAdapter(list[RunResult]),
    rows=runs_table.table,
    merge=runs_table.merge,
    card=_leaderboard_card,
)
CATALOGUE: Table[CatalogueRow] = Table(
    name="catalogue",
    noun="adapters",
    file="data/adapters-00000-of-00001.parquet",
    queued="catalogue.json",
    schema=CATALOGUE_SCHEMA,
    key="repo",
    items=TypeAdapter(list[CatalogueRow]),
    rows=_catalogue_rows,
    merge=_merge_catalogues,
    card=_catalogue_card,
)
TABLES: tuple[Table[Any], ...] = (LEADERBOARD, CATALOGUE)
