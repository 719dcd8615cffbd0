"""Publishing later: a queue on disk for machines without internet, sent from one with access by `hubinit sync`.

Each entry is a folder that is complete from the moment it is visible (written beside, then renamed) and holds no token. It is
removed once the Hub has its commit. An interruption between the two is noticed on the next `sync` by the commit's title,
which names the content, so every publication is made exactly once and in the order in which it was queued.

What waits is for this user alone (0700, 0600) and is read as if a stranger had written it: it must belong to this user, hold
no links, and pass the checks that every push has to pass. An entry that does not costs only itself.
"""

import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from filelock import FileLock
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils._validators import validate_repo_id
from pydantic import AfterValidator, Field, ValidationError

from hubinit.errors import HubError
from hubinit.hub.manifest import Content, Weights, check_text, content_hash, list_files, read_manifest
from hubinit.hub.publication import Publication
from hubinit.hub.send import send
from hubinit.hub.tables import TABLES, Item, Table, message, parquet, publish, to_json
from hubinit.paths import home, open_regular
from hubinit.records import MANIFEST, Record
from hubinit.remote import Commit, RepoType, call
from hubinit.text import one_line

MAX_ENTRY_BYTES = 1 << 20
MAX_DAMAGED_SHOWN = 5


def _full_repo_id(repo_id: str) -> str:
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError("it lacks a namespace")
    return repo_id


class Entry(Record):
    """What one queued publication is; its content lies beside it in `files/`."""

    repo_id: Annotated[str, AfterValidator(_full_repo_id)]
    repo_type: Literal["model", "dataset"]
    private: bool
    replace: bool = True
    files: dict[str, str] = Field(min_length=1)  # path ─► sha256


class Damaged(HubError):
    """An entry of the outbox that cannot be sent, ever."""


@dataclass(frozen=True)
class Delivered:
    """Where a publication went: to its repo, or to the outbox on its way there.

    `changed`: the repo has a new commit. `notes`: what its publisher should know, in sentences.
    """

    repo_id: str
    repo_type: RepoType
    url: str | None = None
    queued: Path | None = None
    changed: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def to_hub(
        cls, api: HfApi, repo_id: str, repo_type: RepoType, commit: Commit | None, notes: Sequence[str] = ()
    ) -> "Delivered":
        """A repo that is on the Hub; `commit` is None when it was there before."""
        kind = "" if repo_type == "model" else f"{repo_type}s/"
        url = commit.pull_request if commit and commit.pull_request else f"{api.endpoint}/{kind}{repo_id}"
        return cls(repo_id, repo_type, url=url, changed=commit is not None, notes=tuple(notes))

    def __str__(self) -> str:
        if self.queued is not None:
            return f"Queued for {self.repo_id} (`hubinit sync` sends it)"
        published = f"Published: {self.url}" + ("" if self.changed else " (was there already)")
        return "\n".join([published, *self.notes])


def deliver(api: HfApi, publication: Publication, *, private: bool = True, replace: bool = True) -> Delivered:
    """Publishes an adapter repo, or queues it where the Hub must not be asked (`--hub offline`).

    Args:
        api: client with a token.
        publication: what to send.
        private: whether a new repo is private.
        replace: whether it may take the place of another start point.

    Raises:
        HubError: the Hub refuses, or the repo holds another start point.
    """
    if is_offline_mode():
        path = queue(outbox_folder(), publication, private=private, replace=replace)
        return Delivered(publication.repo_id, "model", queued=path)
    return Delivered.to_hub(api, publication.repo_id, "model", send(api, publication, private=private, replace=replace))


def deliver_rows(
    api: HfApi, table: Table[Item], items: Sequence[Item], repo_id: str, *, private: bool = True
) -> Delivered:
    """Publishes or queues rows of a leaderboard or a catalogue.

    Raises:
        HubError: the Hub refuses.
    """
    if is_offline_mode():
        path = queue_rows(outbox_folder(), table, items, repo_id, private=private)
        return Delivered(repo_id, "dataset", queued=path)
    notes: list[str] = []
    done = publish(api, table, items, repo_id, private=private, on_problem=notes.append)
    return Delivered.to_hub(api, repo_id, "dataset", done, notes)


def outbox_folder() -> Path:
    """Where publications wait."""
    return home() / "outbox"


def queue(outbox: Path, publication: Publication, *, private: bool = True, replace: bool = True) -> Path:
    """Queues an adapter repo.

    Returns:
        The entry's folder; an equal one that already waits is not queued again.

    Raises:
        HubError: the name is not valid, or a file was changed since it was checked.
    """
    return _write(outbox, publication.files, publication.repo_id, repo_type="model", private=private, replace=replace)


def queue_rows(outbox: Path, table: Table[Item], items: Sequence[Item], repo_id: str, *, private: bool = True) -> Path:
    """Queues rows; they are merged with those in the data set when they are sent.

    Raises:
        HubError: the name is not valid, or a row holds an access token.
    """
    content = to_json(table, items)
    check_text(content.decode(), f"a row of the {table.name}")
    return _write(outbox, {table.queued: content}, repo_id, repo_type="dataset", private=private)


def waiting(outbox: Path) -> list[Path]:
    """The queued entries, first in first, and whatever else bears such a name."""
    return sorted(outbox.glob("[0-9]*-*"))


def sync(api: HfApi, outbox: Path) -> Iterator[Delivered]:
    """Sends what waits, in order, and yields each repo once it is done.

    A second `sync` on the same outbox waits for the first. A damaged entry is passed over.

    Raises:
        HubError: an entry cannot be sent; it and those behind it keep waiting. Or, at the end, what is damaged. Or the
            outbox is another user's.
    """
    if not outbox.is_dir():
        return
    _make_private(outbox)
    damaged: list[Damaged] = []
    with FileLock(outbox / ".lock"):
        for path in waiting(outbox):
            try:
                done = _send(api, path)
            except Damaged as error:
                damaged.append(error)
                continue
            except HubError as error:
                left = len(waiting(outbox))
                raise HubError(
                    f"{error} {left} publications keep waiting; the first is {path} (delete it to skip it)."
                ) from error
            _remove(path)
            yield done
    if damaged:
        shown = " ".join(map(str, damaged[:MAX_DAMAGED_SHOWN]))
        more = f" {len(damaged) - MAX_DAMAGED_SHOWN} more are damaged." if len(damaged) > MAX_DAMAGED_SHOWN else ""
        raise HubError(f"{shown}{more} Everything else was sent.")


def _send(api: HfApi, path: Path) -> Delivered:
    entry, files = _read(path)
    table: Table[Any] | None = next((table for table in TABLES if table.queued in files), None)
    done: Commit | None = None
    notes: list[str] = []
    if entry.repo_type == "dataset" and table is not None:
        items = _items(table, files[table.queued], path)
        if not _is_committed(api, entry, message(table, items)):
            done = publish(api, table, items, entry.repo_id, private=entry.private, on_problem=notes.append)
    else:
        publication = _publication(entry, files, path)
        if not _is_committed(api, entry, publication.message):
            done = send(api, publication, private=entry.private, replace=entry.replace)
    return Delivered.to_hub(api, entry.repo_id, entry.repo_type, done, notes)


def _items(table: Table[Item], content: Content, path: Path) -> list[Item]:
    """The rows of an entry, which fit their table."""
    try:
        items = table.items.validate_json(content if isinstance(content, bytes) else b"")
        parquet(table, table.rows(items))
    except (ValueError, TypeError, ArithmeticError, LookupError, pa.ArrowException) as error:
        raise Damaged(
            f"{one_line(path)} in the outbox is of another version of hubinit; delete it and publish again."
        ) from error
    return items


def _publication(entry: Entry, files: dict[str, Content], path: Path) -> Publication:
    text = files.get(MANIFEST)
    try:
        if entry.repo_type != "model":
            raise HubError("It holds no rows.")
        manifest = read_manifest(text, "it") if isinstance(text, bytes) else None
    except HubError as error:
        raise _damaged(path, error) from error
    return Publication(entry.repo_id, files, manifest)


def _is_committed(api: HfApi, entry: Entry, title: str) -> bool:
    """Whether an interrupted `sync` has already made this commit."""

    def look() -> bool:
        try:
            history = api.list_repo_commits(entry.repo_id, repo_type=entry.repo_type)
        except RepositoryNotFoundError:
            return False
        return any(commit.title == title for commit in history)

    return call(f"read the history of {entry.repo_id}", look, api=api)


def _write(outbox: Path, files: Mapping[str, Content], repo_id: str, **how: Any) -> Path:
    """Writes an entry; `how` holds its other fields."""
    hashes = {name: content_hash(content) for name, content in files.items()}
    try:
        entry = Entry(repo_id=repo_id, files=hashes, **how)
    except ValidationError as error:
        raise HubError(f"'{one_line(repo_id)}' is not a valid repo name; give it as namespace/name.") from error
    outbox.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_private(outbox)
    with FileLock(outbox / ".lock"):
        for path in waiting(outbox):
            if _read_entry(path) == entry:
                return path
        temporary = outbox / f".writing-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(mode=0o700)
            for name, content in files.items():
                _put(temporary / "files" / name, content)
            _put(temporary / "entry.json", entry.model_dump_json(indent=1).encode() + b"\n")
            final = outbox / f"{time.time_ns():020d}-{entry.repo_id.replace('/', '--')}"
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final


def _put(target: Path, content: Content) -> None:
    """Writes a file of an entry, for this user alone.

    Raises:
        HubError: weights are not those that were checked any more.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        if isinstance(content, Weights):
            with open_regular(content.path) as source:
                shutil.copyfileobj(source, file, 1 << 20)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if isinstance(content, Weights) and content_hash(target) != content.sha256:
        raise HubError(f"{content.path} was changed while it was being queued; run the same command again.")


def _make_private(outbox: Path) -> None:
    """Keeps others out of the outbox, also out of one that an older hubinit made.

    Raises:
        HubError: it is another user's.
    """
    if outbox.stat().st_uid != os.geteuid():
        raise HubError(f"{outbox} belongs to another user; set HUBINIT_HOME to a folder of your own.")
    outbox.chmod(0o700)


def _read_entry(path: Path) -> Entry | None:
    """What an entry says about itself, its content unread; None when it cannot be read."""
    try:
        with open_regular(path / "entry.json") as file:
            return Entry.model_validate_json(file.read(MAX_ENTRY_BYTES))
    except (OSError, ValueError):
        return None


def _read(path: Path) -> tuple[Entry, dict[str, Content]]:
    """An entry and its files, checked as those of any push are."""
    try:
        _check_own(path)
    except (HubError, OSError) as error:
        raise _damaged(path, error) from error
    entry = _read_entry(path)
    if entry is None:
        raise Damaged(f"{one_line(path)} in the outbox cannot be read; delete it and publish again.")
    try:
        files = list_files(path / "files")
    except HubError as error:
        raise _damaged(path, error) from error
    for name in sorted(entry.files.keys() | files.keys()):
        if name not in files or content_hash(files[name]) != entry.files.get(name):
            raise Damaged(
                f"{one_line(name)} of {one_line(path)} in the outbox is damaged; delete it and publish again."
            )
    return entry, files


def _check_own(path: Path) -> None:
    """Checks that an entry is a folder of this user, which nobody else can change and which leads nowhere else.

    Raises:
        HubError: it is not.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise HubError("It is not a folder.")
    for part in (path, *path.rglob("*")):
        status = part.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise HubError("There is a link in it.")
        if status.st_uid != os.geteuid():
            raise HubError("It belongs to another user.")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HubError("Others may write to it (`chmod -R go-w` forbids that, if you trust what is in it).")


def _damaged(path: Path, reason: Exception) -> Damaged:
    return Damaged(f"{one_line(path)} in the outbox cannot be sent: {reason} Delete it and publish again.")


def _remove(path: Path) -> None:
    gone = path.with_name(f".sent-{path.name}")
    path.rename(gone)  # from here on it is no longer an entry, however far the deletion gets
    shutil.rmtree(gone, ignore_errors=True)
