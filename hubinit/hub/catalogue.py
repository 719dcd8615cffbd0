"""The catalogue: a data set with one row per pre-initialised adapter, so that they can be browsed, filtered and counted."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi
from pydantic import TypeAdapter, ValidationError

from hubinit.errors import HubError
from hubinit.hub.cards import catalogue_card, initialisation_seconds
from hubinit.hub.manifest import CARD, Manifest, check_text
from hubinit.hub.publish import PublishedRepo
from hubinit.records import Record
from hubinit.remote import Operation, commit, ensure_repo, read_file, show

Start = Literal["keep", "shift"]
CATALOGUE_FILE = "data/adapters-00000-of-00001.parquet"


class CatalogueRow(Record):
    """One pre-initialised adapter. `task` is None where the start does not depend on data; `options` is JSON."""

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


ROWS = TypeAdapter(list[CatalogueRow])
SCHEMA = pa.schema(
    [
        ("repo", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("method", pa.string()),
        ("options", pa.string()),
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


def row(manifest: Manifest, repo_id: str, start: Start, group: str | None = None) -> CatalogueRow:
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
        calibration_samples=spec.calibration.samples if spec.calibration else None,
        bytes=result.adapter_bytes,
        start=start,
        anchor=manifest.anchored,
        seconds=initialisation_seconds(result),
        created=result.provenance.created,
    )


def publish_catalogue(api: HfApi, rows: Iterable[CatalogueRow], repo_id: str, *, private: bool = True) -> PublishedRepo:
    """Adds rows to a catalogue, each repo once; any number of publishers may do so at the same time.

    Raises:
        HubError: the Hub refuses, or the data set there is not a catalogue.
    """
    new = list(rows)

    def build(parent: str | None) -> list[Operation]:
        old = read_catalogue(api, repo_id, parent)
        merged = merge(old, new)
        card = catalogue_card(repo_id, [entry.model_dump() for entry in merged], path=CATALOGUE_FILE)
        check_text(card, CARD)
        operations: list[Operation] = [CommitOperationAdd(CARD, card.encode())]
        if merged != old:
            operations.append(CommitOperationAdd(CATALOGUE_FILE, parquet(merged)))
        return operations

    ensure_repo(api, repo_id, "dataset")
    done = commit(api, repo_id, "dataset", build, message=catalogue_message(new))
    if not private:
        show(api, repo_id, "dataset")
    return PublishedRepo(repo_id, "dataset", done)


def merge(old: Iterable[CatalogueRow], new: Iterable[CatalogueRow]) -> list[CatalogueRow]:
    """All rows, one per repo: the one made last. The outcome does not depend on who came first."""
    ordered = sorted([*old, *new], key=lambda entry: (entry.repo, entry.created, entry.model_dump_json()))
    return list({entry.repo: entry for entry in ordered}.values())


def catalogue_message(rows: list[CatalogueRow]) -> str:
    """Title of the commit that adds these rows; names the content."""
    text = json.dumps(sorted(entry.model_dump_json() for entry in rows))
    return f"Add {len(rows)} adapters [{hashlib.sha256(text.encode()).hexdigest()[:12]}]"


def read_catalogue(api: HfApi, repo_id: str, revision: str | None = None) -> list[CatalogueRow]:
    """The rows of a catalogue, none when it has none yet.

    Raises:
        HubError: it cannot be read, or is not a catalogue.
    """
    content = read_file(api, repo_id, CATALOGUE_FILE, repo_type="dataset", revision=revision)
    if content is None:
        return []
    try:
        records: list[Mapping[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
        return ROWS.validate_python(records)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValidationError) as error:
        raise HubError(
            f"{CATALOGUE_FILE} of {repo_id} is not a catalogue of this version of hubinit; use another data set."
        ) from error


def parquet(rows: Iterable[CatalogueRow]) -> bytes:
    """The rows as one parquet file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([entry.model_dump() for entry in rows], schema=SCHEMA)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
