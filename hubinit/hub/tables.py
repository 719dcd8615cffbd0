"""Rows that many publishers merge into one parquet file with a card: the leaderboard and the catalogue of start points."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi
from pydantic import BaseModel, TypeAdapter

from hubinit.hub import catalogue
from hubinit.hub.board_pages import RUNS, held_values, leaderboard_pages
from hubinit.hub.catalogue import CatalogueRow
from hubinit.hub.claims import proven_runs
from hubinit.hub.manifest import CARD, check_text
from hubinit.hub.quarantine import QUARANTINE, Quarantined, bad_line, read_lines, summary, to_bytes
from hubinit.hub.recovery import load
from hubinit.hub.revisions import Source
from hubinit.hub.untrusted import BadRow, bad_row, split
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard.build import Claims
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.rows import RunRow, schema_of
from hubinit.leaderboard.sources import Rejected
from hubinit.records import RunResult
from hubinit.remote import Commit, Operation, commit, ensure_repo, show

Item = TypeVar("Item", bound=BaseModel)


@dataclass(frozen=True)
class Table(Generic[Item]):
    """One kind of data set whose rows come from many publishers.

    Attributes:
        name: as in messages.
        noun: what its items are called.
        file: the parquet file in the data set.
        queued: the file of its items in the outbox.
        row: what a row may hold.
        identity: the columns by which a row is told from others; the first is never null.
        items: reads and writes items as JSON.
        rows: items ─► rows.
        settle: rows in the order in which they were claimed ─► those that stand, and the position and reason of the others.
        prove: rows that contradict each other ─► those of them that were there first, or are right.
        pages: source, parent, rows, their values by question, number of rows in quarantine ─► README.md and other files.
    """

    name: str
    noun: str
    file: str
    queued: str
    row: type[BaseModel]
    identity: tuple[str, ...]
    items: TypeAdapter[list[Item]]
    rows: Callable[[Sequence[Item]], pd.DataFrame]
    settle: Callable[[pd.DataFrame], tuple[pd.DataFrame, dict[int, str]]]
    prove: Callable[[Source, str | None, pd.DataFrame], pd.DataFrame]
    pages: Callable[[Source, str | None, pd.DataFrame, Items, int], Mapping[str, bytes]]

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return schema_of(self.row)

    def merge(self, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        """All rows of both, each once; where two contradict each other, the old one."""
        return self.settle(pd.concat([old, new], ignore_index=True))[0]

    def source(self, api: HfApi, repo_id: str) -> Source:
        """Where its rows are on the Hub."""
        return Source(api, repo_id, self.file, self.name, self.row, self.identity)


def publish(
    api: HfApi,
    table: Table[Item],
    items: Sequence[Item],
    repo_id: str,
    *,
    private: bool = True,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Commit | None:
    """Adds the rows of `items` to a data set and renews its card.

    Any number of publishers may do this at the same time: rows are merged with those at the parent of the commit, and the
    commit is rebuilt when the parent has changed. A row that is not what it should be, or contradicts one that was there
    first, goes to the quarantine and stops nobody; `on_problem` is told.

    Returns:
        The commit, or None when the data set had all rows before.

    Raises:
        HubError: the Hub refuses, the data set there is another one, or an item holds an access token.
    """
    check_text(to_json(table, items).decode(), f"a row of the {table.name}")
    rows, title = table.rows(items), message(table, items)
    return publish_rows(api, table, rows, repo_id, title=title, private=private, on_problem=on_problem)


def publish_rows(
    api: HfApi,
    table: Table[Any],
    rows: pd.DataFrame,
    repo_id: str,
    *,
    title: str,
    values: Items | None = None,
    private: bool = True,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Commit | None:
    """As `publish`, of rows that were made already.

    Args:
        api: client with a token.
        table: which.
        rows: its columns.
        repo_id: the data set.
        title: of the commit.
        values: by question, of these rows.
        private: a new data set stays private.
        on_problem: told what goes to the quarantine.
    """
    source = table.source(api, repo_id)
    good, bad = split(_records(table, rows), table.row)
    new = runs_table.frame((row.model_dump() for row in good), table.schema)
    refused: list[Quarantined] = []

    def build(parent: str | None) -> list[Operation]:
        state = load(source, parent)
        merged, contenders = _merge(table, source, parent, state.rows, new)
        refused[:] = [*state.lines, *(bad_line(table.file, row) for row in [*bad, *contenders])]
        known = read_lines(source, parent)
        added = list({line.id: line for line in refused if line.id not in {one.id for one in known}}.values())
        pages = table.pages(source, parent, merged, values or {}, len(known) + len(added))
        check_text(pages[CARD].decode(), CARD)
        operations: list[Operation] = [CommitOperationAdd(path, content) for path, content in pages.items()]
        if state.lines or not merged.equals(state.rows):
            operations.append(CommitOperationAdd(table.file, parquet(table, merged)))
        if added:
            operations.append(CommitOperationAdd(QUARANTINE, to_bytes([*known, *added])))
        return operations + [CommitOperationAdd(path, content) for path, content in state.aside.items()]

    ensure_repo(api, repo_id, "dataset")
    done = commit(api, repo_id, "dataset", build, message=title)
    if not private:
        show(api, repo_id, "dataset")
    if refused:
        on_problem(summary(repo_id, refused))
    return done


def read(api: HfApi, table: Table[Any], repo_id: str, revision: str | None = None) -> pd.DataFrame:
    """The rows of a data set that are right; none when it has none yet. Columns that an older hubinit lacked are null.

    Raises:
        HubError: it cannot be read, or holds something else.
    """
    return load(table.source(api, repo_id), revision).rows


def claims_of(api: HfApi, repo_id: str) -> Claims:
    """What a leaderboard data set on a Hub claims, for a build.

    Raises:
        HubError: it cannot be read, or holds something else.
    """
    source = LEADERBOARD.source(api, repo_id)
    state = load(source, None)
    rejected = [Rejected(source=repo_id, place=line.file, reason=line.reason) for line in state.lines]
    return Claims(repo_id, state.rows, tuple(rejected), values=held_values(source, None))


def _merge(
    table: Table[Any], source: Source, parent: str | None, old: pd.DataFrame, new: pd.DataFrame
) -> tuple[pd.DataFrame, list[BadRow]]:
    """All rows that stand, and those that contradict them. Whose they are is asked only where two contradict each other."""
    claims = pd.concat([old, new], ignore_index=True)
    standing, contending = table.settle(claims)
    if contending:
        ours = table.identity[0]
        disputed = claims[claims[ours].isin(claims.iloc[list(contending)][ours])]
        claims = pd.concat([table.prove(source, parent, disputed), claims], ignore_index=True)
        standing, contending = table.settle(claims)
    records = _records(table, claims.iloc[list(contending)])
    return standing, [bad_row(row, why) for row, why in zip(records, contending.values(), strict=True)]


def _records(table: Table[Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False).to_pylist()
    return records


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


LEADERBOARD: Table[RunResult] = Table(
    name="leaderboard",
    noun="runs",
    file=RUNS,
    queued="results.json",
    row=RunRow,
    identity=tuple(runs_table.IDENTITY),
    items=TypeAdapter(list[RunResult]),
    rows=runs_table.table,
    settle=runs_table.settle,
    prove=proven_runs,
    pages=leaderboard_pages,
)
CATALOGUE: Table[CatalogueRow] = Table(
    name="catalogue",
    noun="adapters",
    file=catalogue.PATH,
    queued="catalogue.json",
    row=CatalogueRow,
    identity=("repo",),
    items=TypeAdapter(list[CatalogueRow]),
    rows=catalogue.catalogue_rows,
    settle=catalogue.settle_catalogue,
    prove=lambda source, _, rows: catalogue.stated_by_repo(source.api, rows),
    pages=lambda source, _, rows, __, quarantined: {
        CARD: catalogue.catalogue_markdown(source.repo_id, rows, quarantined).encode()
    },
)
TABLES: tuple[Table[Any], ...] = (LEADERBOARD, CATALOGUE)
