"""Publishing later: a queue on disk for machines without internet, sent from one with access by `hubinit sync`.

Each entry is a folder that is complete from the moment it is visible (written beside, then renamed) and holds no token. It is
removed once the Hub has its commit. An interruption between the two is noticed on the next `sync` by the commit's title,
which names the content, so every publication is made exactly once and in the order in which it was queued.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from pydantic import TypeAdapter, ValidationError

from hubinit.errors import HubError
from hubinit.hub.catalogue import ROWS, CatalogueRow, catalogue_message, publish_catalogue
from hubinit.hub.manifest import FILE_NAME, check_text, read_manifest
from hubinit.hub.publication import Publication, content_hash
from hubinit.hub.publish import PublishedRepo, leaderboard_message, publish_leaderboard, send
from hubinit.records import Record, RunResult
from hubinit.remote import call

_RESULTS = TypeAdapter(list[RunResult])


class Entry(Record):
    """What one queued publication is; its content lies beside it in `files/`."""

    repo_id: str
    repo_type: Literal["model", "dataset"]
    private: bool
    files: dict[str, str]  # path ─► sha256


def queue(outbox: Path, publication: Publication, *, private: bool = True) -> Path:
    """Queues an adapter repo.

    Returns:
        The entry's folder; an equal one that already waits is not queued again.
    """
    return _write(outbox, publication.repo_id, "model", private, publication.files)


def queue_leaderboard(outbox: Path, results: Iterable[RunResult], repo_id: str, *, private: bool = True) -> Path:
    """Queues rows for a leaderboard dataset; they are merged with those there when they are sent.

    Raises:
        HubError: a result holds an access token.
    """
    text = _RESULTS.dump_json(list(results))
    check_text(text.decode(), "a run result")
    return _write(outbox, repo_id, "dataset", private, {"results.json": text})


def queue_catalogue(outbox: Path, rows: Iterable[CatalogueRow], repo_id: str, *, private: bool = True) -> Path:
    """Queues rows for a catalogue of adapters; they are merged with those there when they are sent."""
    return _write(outbox, repo_id, "dataset", private, {"catalogue.json": ROWS.dump_json(list(rows))})


def waiting(outbox: Path) -> list[Path]:
    """The queued entries, first in first."""
    return sorted(path for path in outbox.glob("[0-9]*-*") if path.is_dir())


def sync(api: HfApi, outbox: Path) -> Iterator[PublishedRepo]:
    """Sends what waits, in order, and yields each repo once it is done.

    A second `sync` on the same outbox waits for the first.

    Raises:
        HubError: an entry cannot be sent; it and those behind it keep waiting.
    """
    if not outbox.is_dir():
        return
    with FileLock(outbox / ".lock"):
        for path in waiting(outbox):
            try:
                done = _send(api, path)
            except HubError as error:
                left = len(waiting(outbox))
                raise HubError(
                    f"{error} {left} publications keep waiting; the first is {path} (delete it to skip it)."
                ) from error
            _remove(path)
            yield done


def _send(api: HfApi, path: Path) -> PublishedRepo:
    entry, files = _read(path)
    if "catalogue.json" in files:
        rows = ROWS.validate_json(files["catalogue.json"].read_bytes())
        if _committed(api, entry, catalogue_message(rows)):
            return PublishedRepo(entry.repo_id, "dataset")
        return publish_catalogue(api, rows, entry.repo_id, private=entry.private)
    if entry.repo_type == "dataset":
        results = _RESULTS.validate_json(files["results.json"].read_bytes())
        if _committed(api, entry, leaderboard_message(results)):
            return PublishedRepo(entry.repo_id, "dataset")
        return publish_leaderboard(api, results, entry.repo_id, private=entry.private)
    manifest = read_manifest(files[FILE_NAME].read_bytes(), str(path)) if FILE_NAME in files else None
    publication = Publication(entry.repo_id, dict(files), manifest)
    if _committed(api, entry, publication.message):
        return PublishedRepo(entry.repo_id, "model")
    return send(api, publication, private=entry.private)


def _committed(api: HfApi, entry: Entry, title: str) -> bool:
    """Whether an interrupted `sync` has already made this commit."""

    def look() -> bool:
        try:
            history = api.list_repo_commits(entry.repo_id, repo_type=entry.repo_type)
        except RepositoryNotFoundError:
            return False
        return any(commit.title == title for commit in history)

    return call(f"read the history of {entry.repo_id}", look, api=api)


def _write(
    outbox: Path,
    repo_id: str,
    repo_type: Literal["model", "dataset"],
    private: bool,
    files: Mapping[str, bytes | Path],
) -> Path:
    entry = Entry(
        repo_id=repo_id,
        repo_type=repo_type,
        private=private,
        files={name: content_hash(content) for name, content in files.items()},
    )
    outbox.mkdir(parents=True, exist_ok=True)
    with FileLock(outbox / ".lock"):
        for path in waiting(outbox):
            if _read(path)[0] == entry:
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
        final = outbox / f"{time.time_ns():020d}-{repo_id.replace('/', '--')}"
        temporary.rename(final)
        return final


def _read(path: Path) -> tuple[Entry, dict[str, Path]]:
    """An entry and its files, checked."""
    try:
        entry = Entry.model_validate_json((path / "entry.json").read_bytes())
        files = {name: path / "files" / name for name in entry.files}
        damaged = [name for name, file in files.items() if content_hash(file) != entry.files[name]]
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise HubError(f"{path} in the outbox cannot be read; delete it and publish again.") from error
    if damaged:
        raise HubError(f"{damaged[0]} of {path} in the outbox is damaged; delete it and publish again.")
    return entry, files


def _remove(path: Path) -> None:
    gone = path.with_name(f".sent-{path.name}")
    path.rename(gone)  # from here on it is no longer an entry, however far the deletion gets
    shutil.rmtree(gone, ignore_errors=True)
