"""Publishing later: a queue on disk for machines without internet, sent from one with access by `hubinit sync`.

Each entry is a folder that is complete from the moment it is visible (written beside, then renamed) and holds no token. It is
removed once the Hub has its commit. An interruption between the two is noticed on the next `sync` by the commit's title,
which names the content, so every publication is made exactly once and in the order in which it was queued.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import RepositoryNotFoundError
from pydantic import ValidationError

from hubinit.errors import HubError
from hubinit.hub.manifest import check_text, read_manifest
from hubinit.hub.publication import Publication, content_hash
from hubinit.hub.send import send
from hubinit.hub.tables import TABLES, Item, Table, message, publish, to_json
from hubinit.paths import home
from hubinit.records import MANIFEST, Record
from hubinit.remote import Commit, RepoType, call


class Entry(Record):
    """What one queued publication is; its content lies beside it in `files/`."""

    repo_id: str
    repo_type: Literal["model", "dataset"]
    private: bool
    replace: bool = True
    files: dict[str, str]  # path ─► sha256


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
    """
    hashes = {name: content_hash(content) for name, content in publication.files.items()}
    entry = Entry(repo_id=publication.repo_id, repo_type="model", private=private, replace=replace, files=hashes)
    return _write(outbox, entry, publication.files)


def queue_rows(outbox: Path, table: Table[Item], items: Sequence[Item], repo_id: str, *, private: bool = True) -> Path:
    """Queues rows; they are merged with those in the data set when they are sent.

    Raises:
        HubError: a row holds an access token.
    """
    content = to_json(table, items)
    check_text(content.decode(), f"a row of the {table.name}")
    hashes = {table.queued: content_hash(content)}
    return _write(
        outbox, Entry(repo_id=repo_id, repo_type="dataset", private=private, files=hashes), {table.queued: content}
    )


def waiting(outbox: Path) -> list[Path]:
    """The queued entries, first in first."""
    return sorted(path for path in outbox.glob("[0-9]*-*") if path.is_dir())


def sync(api: HfApi, outbox: Path) -> Iterator[Delivered]:
    """Sends what waits, in order, and yields each repo once it is done.

    A second `sync` on the same outbox waits for the first. A damaged entry is passed over.

    Raises:
        HubError: an entry cannot be sent; it and those behind it keep waiting. Or, at the end, the first damaged one.
    """
    if not outbox.is_dir():
        return
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
        more = f" {len(damaged) - 1} more are damaged." if len(damaged) > 1 else ""
        raise HubError(f"{damaged[0]}{more} Everything else was sent.")


def _send(api: HfApi, path: Path) -> Delivered:
    entry, files = _read(path)
    table: Table[Any] | None = next((table for table in TABLES if table.queued in files), None)
    done: Commit | None = None
    notes: list[str] = []
    if entry.repo_type == "dataset" and table is not None:
        try:
            items = table.items.validate_json(files[table.queued].read_bytes())
        except ValidationError as error:
            raise Damaged(
                f"{path} in the outbox is of another version of hubinit; delete it and publish again."
            ) from error
        if not _is_committed(api, entry, message(table, items)):
            done = publish(api, table, items, entry.repo_id, private=entry.private, on_problem=notes.append)
    else:
        manifest = read_manifest(files[MANIFEST].read_bytes(), str(path)) if MANIFEST in files else None
        publication = Publication(entry.repo_id, dict(files), manifest)
        if not _is_committed(api, entry, publication.message):
            done = send(api, publication, private=entry.private, replace=entry.replace)
    return Delivered.to_hub(api, entry.repo_id, entry.repo_type, done, notes)


def _is_committed(api: HfApi, entry: Entry, title: str) -> bool:
    """Whether an interrupted `sync` has already made this commit."""

    def look() -> bool:
        try:
            history = api.list_repo_commits(entry.repo_id, repo_type=entry.repo_type)
        except RepositoryNotFoundError:
            return False
        return any(commit.title == title for commit in history)

    return call(f"read the history of {entry.repo_id}", look, api=api)


def _write(outbox: Path, entry: Entry, files: Mapping[str, bytes | Path]) -> Path:
    outbox.mkdir(parents=True, exist_ok=True)
    with FileLock(outbox / ".lock"):
        for path in waiting(outbox):
            if _read_entry(path) == entry:
                return path
        temporary = outbox / f".writing-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name, content in files.items():
            target = temporary / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
        (temporary / "entry.json").write_text(entry.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for path in (p for p in temporary.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        final = outbox / f"{time.time_ns():020d}-{entry.repo_id.replace('/', '--')}"
        temporary.rename(final)
        return final


def _read_entry(path: Path) -> Entry | None:
    """What an entry says about itself, its content unread; None when it cannot be read."""
    try:
        return Entry.model_validate_json((path / "entry.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _read(path: Path) -> tuple[Entry, dict[str, Path]]:
    """An entry and its files, checked."""
    entry = _read_entry(path)
    if entry is None:
        raise Damaged(f"{path} in the outbox cannot be read; delete it and publish again.")
    files = {name: path / "files" / name for name in entry.files}
    for name, file in files.items():
        if not file.is_file() or content_hash(file) != entry.files[name]:
            raise Damaged(f"{name} of {path} in the outbox is damaged; delete it and publish again.")
    return entry, files


def _remove(path: Path) -> None:
    gone = path.with_name(f".sent-{path.name}")
    path.rename(gone)  # from here on it is no longer an entry, however far the deletion gets
    shutil.rmtree(gone, ignore_errors=True)
