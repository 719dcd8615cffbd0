"""What a table holds at a commit, whatever was done to it: what is right stays, and what was spoilt comes from its history."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hubinit.errors import HubError
from hubinit.hub.quarantine import Quarantined, bad_line, unread
from hubinit.hub.revisions import Source, commits, fetch, history
from hubinit.hub.untrusted import FILE_BYTES, BadRow, Content, Unreadable, decode
from hubinit.leaderboard.rows import schema_of
from hubinit.leaderboard.table import frame

OURS = re.compile(r"Add \d+ \w+ \[[0-9a-f]{12}\]$")  # titles of the commits that hubinit makes


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


def load(source: Source, revision: str | None) -> State:
    """What a data set holds at one commit; where its file cannot be read, what it held when it last could.

    Raises:
        HubError: the Hub cannot be read, or the data set never was such a table.
    """
    content = None
    try:
        content = fetch(source.api, source.repo_id, source.file, revision, limit=FILE_BYTES)
        found = Content(_no_rows(source)) if content is None else decode(content, source.model, source.identity)
    except Unreadable as error:
        return _recover(source, revision, content, error)
    rows = found.rows
    lines: list[Quarantined] = []
    if found.bad:
        lines, restored = _trace(source, revision, found.bad)
        rows = pd.concat([rows, restored], ignore_index=True) if len(restored) else rows
    if found.unknown:
        names = ", ".join(found.unknown[:10])
        reason = f"columns that this hubinit does not know were left out ({names}); if a newer one wrote them, update hubinit"
        name = hashlib.sha256(reason.encode()).hexdigest()[:16]
        lines.append(Quarantined(id=name, file=source.file, reason=reason, commit=revision))
    return State(rows, lines)


def _recover(source: Source, revision: str | None, content: bytes | None, error: Unreadable) -> State:
    """The newest revision of a table that can be read, and the unreadable file kept aside."""
    brought, older = revision, None
    for sha, older in history(source, revision):
        if older is not None:
            break
        brought = sha
    if older is None and not error.ours and not any(OURS.match(commit.title) for commit in commits(source, revision)):
        raise HubError(
            f"{source.file} of {source.repo_id} is not a {source.name} of this version of hubinit ({error}); "
            "use another data set."
        ) from error
    line = unread(source, content, str(error), brought)
    return State(
        _no_rows(source) if older is None else older.rows,
        [line, *(bad_line(source.file, row) for row in (older.bad if older else ()))],
        {line.kept_as: content} if line.kept_as and content is not None else {},
    )


def _trace(source: Source, parent: str | None, bad: Sequence[BadRow]) -> tuple[list[Quarantined], pd.DataFrame]:
    """Which commit brought each bad row, and the good rows that stood in their place before."""
    sought = {row.id: row for row in bad}
    origins: dict[str, str] = {}
    places = {_place(row.row, source.identity) for row in bad}
    restored = []
    for commit, content in history(source, parent):
        if content is None:
            continue
        present = {row.id for row in content.bad} & sought.keys()
        origins |= dict.fromkeys(present, commit)
        places_here = [_place(row, source.identity) in places for row in content.rows.to_dict("records")]
        restored.append(content.rows[places_here])
        if not present:
            break
    lines = [
        Quarantined(id=name, file=source.file, reason=row.reason, commit=origins.get(name), row=row.row)
        for name, row in sought.items()
    ]
    return lines, pd.concat(restored[1:], ignore_index=True) if len(restored) > 1 else pd.DataFrame()


def _no_rows(source: Source) -> pd.DataFrame:
    return frame([], schema_of(source.model))


def _place(row: Mapping[Any, Any], identity: tuple[str, ...]) -> tuple[str | None, ...]:
    cells = (row.get(name) for name in identity)
    return tuple(None if cell is None or pd.isna(cell) else str(cell) for cell in cells)
