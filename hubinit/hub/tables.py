"""Rows that many publishers merge into one parquet file with a card: the leaderboard and the catalogue of start points."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi
from pydantic import BaseModel, TypeAdapter

from hubinit.errors import HubError
from hubinit.hub import catalogue
from hubinit.hub.cards import leaderboard_card
from hubinit.hub.catalogue import CatalogueRow, catalogue_row
from hubinit.hub.manifest import CARD, check_text
from hubinit.hub.quarantine import (
    QUARANTINE,
    Quarantined,
    Source,
    fetch,
    history,
    read_lines,
    summary,
    to_bytes,
    trace,
    unread,
)
from hubinit.hub.untrusted import FILE_BYTES, BadRow, Content, Unreadable, bad_row, decode, split
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import markdown
from hubinit.leaderboard.rows import RunRow, schema_of
from hubinit.records import RunResult
from hubinit.remote import Commit, Operation, commit, ensure_repo, show

__all__ = ["CATALOGUE", "LEADERBOARD", "TABLES", "CatalogueRow", "Item", "Table", "catalogue_row", "message", "parquet"]
__all__ += ["publish", "read", "to_json"]

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
        card: repo, rows, number of rows in quarantine ─► README.md.
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
    card: Callable[[str, pd.DataFrame, int], str]

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return schema_of(self.row)

    def merge(self, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        """All rows of both, each once; where two contradict each other, the old one."""
        return self.settle(pd.concat([old, new], ignore_index=True))[0]

    def source(self, api: HfApi, repo_id: str) -> Source:
        """Where its rows are on the Hub."""
        return Source(api, repo_id, self.file, self.row, self.identity)


@dataclass(frozen=True)
class State:
    """What a data set holds at one commit.

    Attributes:
        rows: those that are right.
        lines: what is not, for the quarantine.
        aside: path ─► content of files to keep there.
    """

    rows: pd.DataFrame
    lines: list[Quarantined] = field(default_factory=list)
    aside: dict[str, bytes] = field(default_factory=dict)


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
    source = table.source(api, repo_id)
    good, bad = split(_records(table, table.rows(items)), table.row)
    new = runs_table.frame((row.model_dump() for row in good), table.schema)
    refused: list[Quarantined] = []

    def build(parent: str | None) -> list[Operation]:
        state = load(table, source, parent)
        merged, contenders = _merge(table, source, parent, state.rows, new)
        refused[:] = [*state.lines, *(_line(table, row) for row in [*bad, *contenders])]
        known = read_lines(source, parent)
        added = list({line.id: line for line in refused if line.id not in {one.id for one in known}}.values())
        card = table.card(repo_id, merged, len(known) + len(added))
        check_text(card, CARD)
        operations: list[Operation] = [CommitOperationAdd(CARD, card.encode())]
        if state.lines or not merged.equals(state.rows):
            operations.append(CommitOperationAdd(table.file, parquet(table, merged)))
        if added:
            operations.append(CommitOperationAdd(QUARANTINE, to_bytes([*known, *added])))
        return operations + [CommitOperationAdd(path, content) for path, content in state.aside.items()]

    ensure_repo(api, repo_id, "dataset")
    done = commit(api, repo_id, "dataset", build, message=message(table, items))
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
    return load(table, table.source(api, repo_id), revision).rows


def load(table: Table[Any], source: Source, revision: str | None) -> State:
    """What a data set holds at one commit; where its file cannot be read, what it held when it last could.

    Raises:
        HubError: the Hub cannot be read, or the data set never was such a table.
    """
    content = None
    try:
        content = fetch(source, table.file, revision, FILE_BYTES)
        found = Content(table.rows([])) if content is None else decode(content, table.row, table.identity)
    except Unreadable as error:
        return _recover(table, source, revision, content, error)
    rows = found.rows
    lines: list[Quarantined] = []
    if found.bad:
        lines, restored = trace(source, revision, found.bad)
        rows = pd.concat([rows, restored], ignore_index=True) if len(restored) else rows
    if found.unknown:
        names = ", ".join(found.unknown[:10])
        reason = f"columns that this hubinit does not know were left out ({names}); if a newer one wrote them, update hubinit"
        name = hashlib.sha256(reason.encode()).hexdigest()[:16]
        lines.append(Quarantined(id=name, file=table.file, reason=reason, commit=revision))
    return State(rows, lines)


def _recover(
    table: Table[Any], source: Source, revision: str | None, content: bytes | None, error: Unreadable
) -> State:
    """The newest revision of a table that can be read, and the unreadable file kept aside."""
    brought, older = revision, None
    for sha, older in history(source, revision):
        if older is not None:
            break
        brought = sha
    if older is None and not error.ours:
        raise HubError(
            f"{table.file} of {source.repo_id} is not a {table.name} of this version of hubinit ({error}); "
            "use another data set."
        ) from error
    line = unread(source, content, str(error), brought)
    return State(
        table.rows([]) if older is None else older.rows,
        [line, *(_line(table, row) for row in (older.bad if older else ()))],
        {line.kept_as: content} if line.kept_as and content is not None else {},
    )


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


def _line(table: Table[Any], row: BadRow) -> Quarantined:
    return Quarantined(id=row.id, file=table.file, reason=row.reason, row=row.row)


def _records(table: Table[Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False).to_pylist()
    return records


def claimed_first(source: Source, parent: str | None, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that the history of the data set had first, by key."""
    decisive = [tuple(row) for row in _plain(rows[runs_table.DECISIVE])]
    first: dict[str, list[int]] = {}
    for _, content in history(source, parent):
        if content is not None:
            held = set(map(tuple, _plain(content.rows.loc[content.rows["key"].isin(rows["key"]), runs_table.DECISIVE])))
            here: dict[str, list[int]] = {}
            for position, row in enumerate(decisive):
                if row in held:
                    here.setdefault(row[0], []).append(position)
            first |= here
    return rows.iloc[[position for positions in first.values() for position in positions]]


def _plain(rows: pd.DataFrame) -> list[list[Any]]:
    return [[None if pd.isna(value) else value for value in row] for row in rows.itertuples(index=False)]


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


def _leaderboard_card(repo_id: str, rows: pd.DataFrame, quarantined: int) -> str:
    return leaderboard_card(
        repo_id,
        markdown(rank(rows), runs_table.failures(rows)),
        runs=rows["key"].nunique(),
        rows=len(rows),
        models=sorted(rows["model"].unique()),
        path=LEADERBOARD.file,
        quarantined=quarantined,
    )


LEADERBOARD: Table[RunResult] = Table(
    name="leaderboard",
    noun="runs",
    file="data/runs-00000-of-00001.parquet",
    queued="results.json",
    row=RunRow,
    identity=tuple(runs_table.IDENTITY),
    items=TypeAdapter(list[RunResult]),
    rows=runs_table.table,
    settle=runs_table.settle,
    prove=claimed_first,
    card=_leaderboard_card,
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
    card=catalogue.catalogue_markdown,
)
TABLES: tuple[Table[Any], ...] = (LEADERBOARD, CATALOGUE)
