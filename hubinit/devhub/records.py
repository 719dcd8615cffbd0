"""What the embedded Hub keeps: repos, commits, trees and their files, as plain data."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from .names import RepoType
from .refusals import bad_request, entry_not_found

MAIN = "refs/heads/main"


class Entry(NamedTuple):
    """A file at a commit: sha256 of its content, size in bytes, git's name for it, and whether it is stored as LFS."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What clients know the content by: sha256 for LFS, git's name otherwise."""
        return self.sha256 if self.lfs else self.oid


Tree = Mapping[str, Entry]


class Commit(BaseModel, frozen=True):
    """One immutable commit. Its sha is the sha1 of its JSON, so equal histories have equal shas on every machine."""

    repo: str
    tree: str
    parent: str | None
    title: str
    message: str = ""
    author: str
    date: str


class Repo(BaseModel):
    """What one repo's JSON holds."""

    type: RepoType
    id: str
    uid: str
    created: str
    private: bool = False
    gated: str | bool = False
    sdk: str | None = None
    refs: dict[str, str] = Field(default_factory=dict)
    access: dict[str, dict[str, str]] = Field(default_factory=dict)
    discussions: list[dict[str, Any]] = Field(default_factory=list)
    moved_to: str | None = None

    @property
    def owner(self) -> str:
        """The namespace the repo is in."""
        return self.id.partition("/")[0]

    def grants(self, user: str | None) -> bool:
        """Whether the files may be read by this user, as far as gating goes."""
        return not self.gated or user == self.owner or self.access.get(user or "", {}).get("status") == "accepted"

    @property
    def head(self) -> str:
        """The sha at the tip of `main`."""
        return self.refs[MAIN]


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def changed_tree(old: Tree, entries: Mapping[str, Entry], delete: Iterable[str]) -> dict[str, Entry]:
    """A tree after deletions, then additions.

    Raises:
        Refusal: a deleted path is not there (404), or a path would be both a file and a folder (400).
    """
    new = dict(old)
    for path in delete:
        gone = (
            [known for known in new if known.startswith(path)] if path.endswith("/") else [path] if path in new else []
        )
        if not gone:
            raise entry_not_found(path)
        for known in gone:
            del new[known]
    new.update(entries)
    for path in entries:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in new:
                raise bad_request(f"{folder!r} would be both a file and a folder")
    folders = {path.rsplit("/", 1)[0] + "/" for path in new if "/" in path}
    for path in entries:
        if any(folder.startswith(f"{path}/") for folder in folders):
            raise bad_request(f"{path!r} would be both a file and a folder")
    return new
