"""What could not stay in a table is kept beside it, with the reason and the commit that brought it; nothing is lost silently."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field, ValidationError

from hubinit.hub.revisions import Source, fetch
from hubinit.hub.untrusted import BadRow, Unreadable
from hubinit.leaderboard.rows import Row
from hubinit.text import one_line

QUARANTINE = "quarantine.jsonl"
ASIDE = "quarantine"  # the folder of files that could not be read
KEPT = 1_000  # lines; older ones stay in the history of the data set
FILE_LIMIT = 8_000_000  # bytes of the quarantine
REASONS = 3  # named in a message


class Quarantined(Row):
    """One line of the quarantine: a row (its cells cut), or a file."""

    id: str = Field(max_length=64, description="names the content, so that it is kept once")
    file: str = Field(max_length=300, description="where it was")
    reason: str = Field(max_length=1000)
    commit: str | None = Field(default=None, max_length=64, description="that brought it; null: that of this line")
    row: dict[str, Any] | None = None
    kept_as: str | None = Field(default=None, max_length=300, description="where the file is now")


def bad_line(file: str, row: BadRow) -> Quarantined:
    """The line of a row that this commit takes out."""
    return Quarantined(id=row.id, file=file, reason=row.reason, row=row.row)


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
        content = fetch(source.api, source.repo_id, QUARANTINE, revision, limit=FILE_LIMIT)
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
