"""What could not stay in a table is kept beside it, with the reason and the commit that brought it; nothing is lost silently."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from pydantic import BaseModel, Field, ValidationError

from hubinit.hub.untrusted import FILE_BYTES, BadRow, Content, Unreadable, decode
from hubinit.leaderboard.rows import Row
from hubinit.remote import call, read_file
from hubinit.text import one_line

QUARANTINE = "quarantine.jsonl"
ASIDE = "quarantine"  # the folder of files that could not be read
KEPT = 1_000  # lines; older ones stay in the history of the data set
FILE_LIMIT = 8_000_000  # bytes of the quarantine
HISTORY = 50  # revisions that are looked at, at most
REASONS = 3  # named in a message


class Quarantined(Row):
    """One line of the quarantine: a row (its cells cut), or a file."""

    id: str = Field(max_length=64, description="names the content, so that it is kept once")
    file: str = Field(max_length=300, description="where it was")
    reason: str = Field(max_length=1000)
    commit: str | None = Field(default=None, max_length=64, description="that brought it; null: that of this line")
    row: dict[str, Any] | None = None
    kept_as: str | None = Field(default=None, max_length=300, description="where the file is now")


@dataclass(frozen=True)
class Source:
    """A table on the Hub: where it is, what its rows are, and by what they are told apart."""

    api: HfApi
    repo_id: str
    file: str
    model: type[BaseModel]
    identity: tuple[str, ...]


def fetch(source: Source, path: str, revision: str | None, limit: int) -> bytes | None:
    """A file of a data set; None when there is none.

    Raises:
        Unreadable: it is larger than `limit`; it is not downloaded.
        HubError: the Hub cannot be read.
    """
    api, repo_id = source.api, source.repo_id
    found = call(
        f"read {path} of {repo_id}",
        lambda: api.get_paths_info(repo_id, [path], repo_type="dataset", revision=revision),
        api=api,
    )
    if not found or not isinstance(found[0], RepoFile):
        return None
    if found[0].size > limit:
        raise Unreadable(f"it has {found[0].size} bytes, more than {limit}", ours=True)
    return read_file(api, repo_id, path, repo_type="dataset", revision=revision)


def history(source: Source, parent: str | None) -> Iterator[tuple[str, Content | None]]:
    """The commits from `parent` back and what the table held there, newest first; None: nothing that can be read."""
    api, repo_id = source.api, source.repo_id
    commits = call(
        f"read the history of {repo_id}",
        lambda: api.list_repo_commits(repo_id, repo_type="dataset", revision=parent),
        api=api,
    )
    before: bytes | None = None
    held: Content | None = None
    for commit in commits[:HISTORY]:
        try:
            content = fetch(source, source.file, commit.commit_id, FILE_BYTES)
            if content != before:  # most commits change the table, some only the card
                before, held = content, None
                held = decode(content, source.model, source.identity) if content is not None else None
        except Unreadable:
            held = None
        yield commit.commit_id, held


def trace(source: Source, parent: str | None, bad: Sequence[BadRow]) -> tuple[list[Quarantined], pd.DataFrame]:
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


def unread(source: Source, content: bytes | None, reason: str, commit: str | None) -> Quarantined:
    """The line of a file that cannot be read; it is kept aside unless it is too large even for that."""
    name = hashlib.sha256(content or (commit or "").encode()).hexdigest()[:16]
    kept = f"{ASIDE}/{name}-{source.file.rsplit('/', 1)[-1]}" if content is not None else None
    return Quarantined(
        id=name, file=source.file, reason=f"the file cannot be read: {reason}", commit=commit, kept_as=kept
    )


def read_lines(source: Source, revision: str | None) -> list[Quarantined]:
    """What is in quarantine already. Others may write there, too: what is not such a line is left out."""
    try:
        content = fetch(source, QUARANTINE, revision, FILE_LIMIT)
    except Unreadable:
        return []
    lines = []
    for line in (content or b"").splitlines()[-KEPT:]:
        try:
            lines.append(Quarantined.model_validate_json(line))
        except (ValidationError, RecursionError):
            continue
    return lines


def to_bytes(lines: Sequence[Quarantined]) -> bytes:
    """The quarantine as a file: the newest lines, within the limits."""
    texts = [line.model_dump_json(exclude_none=True).encode() + b"\n" for line in lines[-KEPT:]]
    while sum(map(len, texts)) > FILE_LIMIT:
        del texts[: len(texts) // 10 + 1]
    return b"".join(texts)


def summary(repo_id: str, lines: Collection[Quarantined]) -> str:
    """What a publisher is told, in one sentence."""
    reasons = Counter(line.reason for line in lines)
    named = "; ".join(f"{one_line(reason)} ({count})" for reason, count in reasons.most_common(REASONS))
    more = f"; and {len(reasons) - REASONS} other reasons" if len(reasons) > REASONS else ""
    what = "1 row is" if len(lines) == 1 else f"{len(lines)} rows are"
    if any(line.row is None for line in lines):
        what = f"{len(lines)} rows or files are" if len(lines) > 1 else "A file is"
    return f"{what} quarantined in {repo_id} ({QUARANTINE} has the details): {named}{more}."


def _place(row: Mapping[Any, Any], identity: tuple[str, ...]) -> tuple[str | None, ...]:
    cells = (row.get(name) for name in identity)
    return tuple(None if cell is None or pd.isna(cell) else str(cell) for cell in cells)
