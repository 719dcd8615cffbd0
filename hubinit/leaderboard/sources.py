"""Reading a folder of results into rows, and only what is new or changed since the last time."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError

from hubinit.errors import HubinitError, first_line
from hubinit.leaderboard.items import Items, read_answered
from hubinit.leaderboard.rows import RunRow
from hubinit.leaderboard.table import SCHEMA, ranked_items, rows
from hubinit.paths import write_atomically
from hubinit.records import ITEMS, Record, RunResult, items_name, read_result

READER = hashlib.sha256(f"1 {SCHEMA}".encode()).hexdigest()[:16]  # what was read with other columns is read again
SHOWN = 300  # characters of a reason


class Rejected(Record):
    """What is not in the table, and why."""

    source: str = Field(description="the folder or repository, as it was given")
    place: str = Field(description="the file in it, or the key and task of the row")
    reason: str


class Seen(Record):
    """One result file as it was read: its rows, or why it has none."""

    path: str
    mtime_ns: int
    size: int
    rows: tuple[dict[str, Any], ...] = ()
    records: dict[str, str] = Field(default_factory=dict, description="sha256 of item records ─► their path")
    wrong: tuple[str, ...] = Field(
        default=(), description="a reason for each row that was left out, or for the whole file"
    )


def read_folder(folder: Path, before: dict[str, Seen], on_read: Callable[[], None] = lambda: None) -> list[Seen]:
    """The results `runs/*/result.json` of a folder, by key; files that are as they were `before` are not opened.

    A file counts as unchanged where its time of change (in nanoseconds) and its size are.
    """
    found, paths = [], sorted(folder.glob("runs/*/result.json"))
    with read_ahead(path for path in paths if str(path.absolute()) not in before):
        for path in paths:
            name, status = str(path.absolute()), path.stat()
            known = before.get(name)
            if known is None or (known.mtime_ns, known.size) != (status.st_mtime_ns, status.st_size):
                known = _read(path, name, status.st_mtime_ns, status.st_size)
                on_read()
            found.append(known)
    return found


@contextmanager
def read_ahead(paths: Iterable[Path]) -> Iterator[None]:
    """Files that are wanted one after the other: another thread asks the disk for them while this one computes."""
    ended = Event()

    def ask() -> None:
        for path in paths:
            if ended.is_set():
                return
            with suppress(OSError, AttributeError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _read(path: Path, name: str, mtime_ns: int, size: int) -> Seen:
    try:
        result = read_result(path)
    except HubinitError as error:
        return Seen(path=name, mtime_ns=mtime_ns, size=size, wrong=(_cause(error)[:SHOWN],))
    good, wrong = [], []
    for row in rows([result]):
        try:
            good.append(RunRow.model_validate(row).model_dump(exclude_none=True))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            wrong.append(f"{row.get('task')}: {'.'.join(map(str, first['loc']))}: {first['msg']}"[:SHOWN])
    records = records_of(result, path.parent.absolute())
    return Seen(path=name, mtime_ns=mtime_ns, size=size, rows=tuple(good), records=records, wrong=tuple(wrong))


def records_of(result: RunResult, folder: Path) -> dict[str, str]:
    """Where the item records of a run lie: sha256 ─► path."""
    return {score.items: str(folder / ITEMS / items_name(score.eval)) for score in result.scores if score.items}


def _cause(error: HubinitError) -> str:
    """Why a file could not be read, without its path on this machine: what is rejected is published."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.strerror or type(cause).__name__
    return first_line(cause) if cause is not None else "its key does not match its specification"


def read_cache(path: Path) -> dict[str, Seen]:
    """What the last build read, by path; nothing where there is none, or another version wrote it."""
    try:
        head, *lines = path.read_text("utf-8").splitlines()
        if json.loads(head) != {"reader": READER}:
            return {}
        found = (json.loads(line) for line in lines)
        return {one["path"]: Seen.model_construct(**one) for one in found}  # ours: not checked again
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_cache(path: Path, seen: Iterable[Seen]) -> None:
    """Keeps what was read for the next build."""
    lines = [json.dumps({"reader": READER}), *(json.dumps(vars(one)) for one in seen)]
    write_atomically(path, "\n".join(lines) + "\n")


def read_items(
    places: Mapping[str, str], wanted: set[tuple[str, str]], known: Items, on_problem: Callable[[str, str], None]
) -> Items:
    """The values of each question for (sha256, metric) that are `wanted`; those that are `known` are not read again.

    Args:
        places: sha256 of item records ─► their path.
        wanted: which.
        known: of the last build.
        on_problem: told the file's place and the reason where records are missing or damaged; the scores stay, unpaired.
    """
    items: Items = {}
    lines = [line for line in sorted(wanted) if line[0] in places]  # a repository holds rows only
    with read_ahead(Path(places[line[0]]) for line in lines if line not in known):
        for line in lines:
            path = Path(places[line[0]])
            if line in known and path.exists():
                items[line] = known[line]
                continue
            try:
                answered = read_answered(path, *line)
            except HubinitError as error:
                reason = f"the score stays, but is not paired by question: {_cause(error)}"
                on_problem("/".join(path.parts[-4:]), reason[:SHOWN])
                continue
            if answered is not None:
                items[line] = answered
    return items


def items_of(runs: pd.DataFrame, results: Sequence[RunResult], root: Path, on_problem: Callable[[str], None]) -> Items:
    """What each ranked run of a folder scored on each question.

    Args:
        runs: their rows.
        results: the same runs.
        root: the folder of results.
        on_problem: told of each file of item records that is missing or damaged; its run is not paired by question.
    """
    places: dict[str, str] = {}
    for result in results:
        places |= records_of(result, root.absolute() / "runs" / result.key)
    return read_items(places, ranked_items(runs), {}, lambda place, why: on_problem(f"Not paired: {place}: {why}"))
