"""Files of a data set that others may have written, now and at earlier commits; none is downloaded that is too large."""

from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import GitCommitInfo, HfApi
from huggingface_hub.hf_api import RepoFile
from pydantic import BaseModel

from hubinit.hub.untrusted import FILE_BYTES, Content, Unreadable, decode
from hubinit.remote import RepoType, call, read_file

HISTORY = 50  # revisions that are looked at, at most


@dataclass(frozen=True)
class Source:
    """A table on the Hub: where it is, what it is called, what its rows are, and by what they are told apart."""

    api: HfApi
    repo_id: str
    file: str
    name: str
    model: type[BaseModel]
    identity: tuple[str, ...]


def fetch(
    api: HfApi, repo_id: str, path: str, revision: str | None, *, limit: int, repo_type: RepoType = "dataset"
) -> bytes | None:
    """A file on the Hub; None when there is none.

    Raises:
        Unreadable: it is larger than `limit`; it is not downloaded.
        HubError: the Hub cannot be read.
    """
    found = call(
        f"read {path} of {repo_id}",
        lambda: api.get_paths_info(repo_id, [path], repo_type=repo_type, revision=revision),
        api=api,
    )
    if not found or not isinstance(found[0], RepoFile):
        return None
    if found[0].size > limit:
        raise Unreadable(f"it has {found[0].size} bytes, more than {limit}", ours=True)
    return read_file(api, repo_id, path, repo_type=repo_type, revision=revision)


def commits(source: Source, parent: str | None) -> list[GitCommitInfo]:
    """The commits from `parent` back, newest first."""
    return call(
        f"read the history of {source.repo_id}",
        lambda: source.api.list_repo_commits(source.repo_id, repo_type="dataset", revision=parent),
        api=source.api,
    )


def history(source: Source, parent: str | None) -> Iterator[tuple[str, Content | None]]:
    """The newest commits from `parent` back and what the table held there; None: nothing that can be read."""
    before: bytes | None = None
    held: Content | None = None
    for commit in commits(source, parent)[:HISTORY]:
        try:
            content = fetch(source.api, source.repo_id, source.file, commit.commit_id, limit=FILE_BYTES)
            if content != before:  # most commits change the table, some only the card
                before, held = content, None
                held = decode(content, source.model, source.identity) if content is not None else None
        except Unreadable:
            held = None
        yield commit.commit_id, held
