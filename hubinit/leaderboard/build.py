"""The leaderboard's files from folders of results and rows of others: a function of what goes in, byte for byte.

`runs.parquet` holds one row for each run, task and metric, `summary.parquet` one for each model, task, method, rank and
optimiser, `items.parquet` the values of each question by which runs are paired, and `rejected.jsonl` what was left out and why.
`.cache.jsonl` is only of this machine: it spares the next build what has not changed.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hubinit.errors import HubinitError, first_line
from hubinit.leaderboard import summary as summaries
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard.items import SCHEMA as ITEMS_SCHEMA
from hubinit.leaderboard.items import Items, items_table, read_table
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.sources import Rejected, Seen, read_cache, read_folder, read_items, write_cache
from hubinit.paths import write_atomically

VERSION = 1  # of the files: columns may be added without a new one; a reader refuses newer ones
VERSION_KEY = b"hubinit_leaderboard"
RUNS, SUMMARY, ITEMS = "runs.parquet", "summary.parquet", "items.parquet"
REJECTED, CACHE = "rejected.jsonl", ".cache.jsonl"


@dataclass(frozen=True)
class Claims:
    """The rows that one source brings, in its order, and what it has already rejected.

    Attributes:
        name: as it was given.
        rows: columns of `RunRow`.
        rejected: with reasons.
        seen: the files that were read; none of a repository.
        values: by question, where the source holds them itself.
    """

    name: str
    rows: pd.DataFrame
    rejected: tuple[Rejected, ...] = ()
    seen: tuple[Seen, ...] = ()
    values: Items = field(default_factory=dict)


@dataclass(frozen=True)
class Leaderboard:
    """What a build made, or `open_leaderboard` read.

    Attributes:
        runs: columns of `RunRow`.
        summary: columns of `SummaryRow`.
        rejected: with reasons.
        read: result files that were opened.
        found: result files that were there.
    """

    runs: pd.DataFrame
    summary: pd.DataFrame
    rejected: tuple[Rejected, ...] = ()
    read: int = 0
    found: int = 0


def claims_of_folder(folder: Path, name: str, before: dict[str, Seen], on_read: Callable[[], None]) -> Claims:
    """What the results in a folder claim."""
    seen = read_folder(folder, before, on_read)
    rejected = [
        Rejected(source=name, place="/".join(Path(one.path).parts[-3:]), reason=reason)
        for one in seen
        for reason in one.wrong
    ]
    rows = runs_table.frame(chain.from_iterable(one.rows for one in seen))
    return Claims(name, rows, tuple(rejected), tuple(seen))


def build(folders: Sequence[tuple[str, Path]], others: Sequence[Claims], out: Path) -> Leaderboard:
    """Builds the files of a leaderboard; what is unchanged since the last build into the same folder is not read again.

    Where two rows contradict each other, the one that comes first stands: folders in their order, then the others.

    Args:
        folders: name as it was given, and folder.
        others: rows from elsewhere, such as a data set on a Hub.
        out: where the files go; made if it is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    before, read = read_cache(out / CACHE), list[None]()
    claims = [claims_of_folder(path, name, before, lambda: read.append(None)) for name, path in folders]
    claims += others
    rejected = list(chain.from_iterable(one.rejected for one in claims))
    rows = pd.concat([one.rows for one in claims], ignore_index=True)
    origins = [one.name for one in claims for _ in range(len(one.rows))]
    runs, contending = runs_table.settle(rows)
    for position, reason in sorted(contending.items()):
        row = rows.iloc[position]
        rejected.append(Rejected(source=origins[position], place=f"{row['key']} {row['task']}", reason=reason))
    seen = list(chain.from_iterable(one.seen for one in claims))
    brought = {line: values for one in claims for line, values in one.values.items()}
    items = _items(runs, seen, brought, out / ITEMS, rejected)
    summary = summaries.summarise(rank(runs, items))
    if list(before.values()) != seen or not (out / RUNS).exists():
        write_cache(out / CACHE, seen)
    _replace(out / RUNS, to_parquet(runs, runs_table.SCHEMA))
    _replace(out / SUMMARY, to_parquet(summary, summaries.SCHEMA))
    _replace(out / ITEMS, to_parquet(items_table(items)))
    _replace(out / REJECTED, "".join(f"{one.model_dump_json()}\n" for one in rejected).encode())
    return Leaderboard(runs, summary, tuple(rejected), len(read), len(seen))


def open_leaderboard(folder: Path) -> Leaderboard:
    """The files of a built leaderboard, of this version or an older one: columns that it lacked are null.

    Raises:
        HubinitError: they are not there, are damaged, or a newer hubinit wrote them.
    """
    runs = _read_rows(folder / RUNS, runs_table.SCHEMA, "key")
    summary = _read_rows(folder / SUMMARY, summaries.SCHEMA, "method")
    try:
        lines = (folder / REJECTED).read_text("utf-8").splitlines()
        return Leaderboard(runs, summary, tuple(map(Rejected.model_validate_json, lines)))
    except (OSError, ValueError) as error:
        raise HubinitError(
            f"{folder / REJECTED} cannot be read ({first_line(error)}); build the leaderboard again."
        ) from error


def is_built(folder: Path) -> bool:
    """Whether a folder holds the files of a leaderboard."""
    return (folder / RUNS).is_file() and (folder / SUMMARY).is_file()


def open_items(folder: Path, wanted: set[tuple[str, str]] | None = None) -> Items:
    """The values by question of a built leaderboard, by sha256 of the item records and metric.

    Args:
        folder: that `build` wrote.
        wanted: only these. None: all.

    Raises:
        HubinitError: they are damaged, or a newer hubinit wrote them.
    """
    if not (folder / ITEMS).exists() or (wanted is not None and not wanted):
        return {}
    filters = None if wanted is None else [("items", "in", sorted({name for name, _ in wanted}))]
    table = _read(folder / ITEMS, filters)
    if not table.schema.remove_metadata().equals(ITEMS_SCHEMA):
        raise HubinitError(f"{folder / ITEMS} is not a leaderboard's (it has other columns); build it again.")
    return {line: answered for line, answered in read_table(table).items() if wanted is None or line in wanted}


def _items(runs: pd.DataFrame, seen: Sequence[Seen], brought: Items, path: Path, rejected: list[Rejected]) -> Items:
    """The values behind the scores that rank, those of the last build from its file."""
    try:
        known = open_items(path.parent)
    except HubinitError:  # then they are read anew
        known = {}
    places = {name: place for one in seen for name, place in one.records.items()}

    def on_problem(place: str, reason: str) -> None:
        rejected.append(Rejected(source="item records", place=place, reason=reason))

    wanted = runs_table.ranked_items(runs)
    here = {line: values for line, values in brought.items() if line in wanted and line[0] not in places}
    return here | read_items(places, wanted, known, on_problem)


def _read(path: Path, filters: list[tuple[str, str, list[str]]] | None = None) -> pa.Table:
    try:
        table = pq.read_table(path, filters=filters)
        version = int((table.schema.metadata or {}).get(VERSION_KEY, b"0"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise HubinitError(f"{path} cannot be read ({first_line(error)}); build the leaderboard again.") from error
    if version > VERSION:
        raise HubinitError(f"A newer hubinit wrote {path}: update hubinit, or build the leaderboard again.")
    return table


def _read_rows(path: Path, schema: pa.Schema, needed: str) -> pd.DataFrame:
    """The rows of a file that somebody may have written over."""
    table = _read(path)
    try:
        if needed not in table.column_names:
            raise ValueError(f"it has no column {needed}")
        return runs_table.frame(table.to_pylist(), schema)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise HubinitError(f"{path} is not a leaderboard's ({first_line(error)}); build it again.") from error


def to_parquet(rows: pd.DataFrame | pa.Table, schema: pa.Schema | None = None) -> bytes:
    """Equal rows give equal bytes: only the version is kept beside the columns."""
    table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False) if isinstance(rows, pd.DataFrame) else rows
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: str(VERSION)}), buffer, compression="zstd")
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file unless it holds this already, so that what is served from it does not change for nothing."""
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: what is missing is null."""
    found: list[dict[str, Any]] = json.loads(rows.to_json(orient="records", double_precision=15))
    return found
