"""What never changes in a root: file contents, trees and commits, by their hashes, and which repo an LFS file was uploaded to."""

import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from .blobs import Blobs, chunks, git_oid, lfs_pointer, make_private, sync_folder, write_durably
from .names import is_lfs
from .records import Commit, Entry, Repo, Tree, now
from .root import take


class Objects:
    """Blobs, trees and commits under one root folder; nothing here is ever overwritten, so it needs no lock."""

    def __init__(self, root: Path) -> None:
        """Args: root: created when missing."""
        self.root = Path(root)
        self.mark = take(self.root)
        self.close = weakref.finalize(self, os.close, self.mark)  # no file is written after this
        self.blobs = Blobs(self.root / "blobs")
        self.tree_of = lru_cache(maxsize=256)(self._tree_of)
        self.commit_of = lru_cache(maxsize=16384)(self._commit_of)

    def _commit_path(self, sha: str) -> Path:
        return self.root / "commits" / sha[:2] / sha

    def _commit_of(self, sha: str) -> Commit:
        return Commit.model_validate_json(self._commit_path(sha).read_bytes())

    def _tree_of(self, sha: str) -> Tree:
        listing = json.loads(self.blobs.path(self.commit_of(sha).tree).read_bytes())
        return MappingProxyType({path: Entry(*fields) for path, fields in listing.items()})

    def history(self, sha: str) -> Iterator[tuple[str, Commit]]:
        """A commit and its ancestors, newest first."""
        following: str | None = sha
        while following:
            commit = self.commit_of(following)
            yield following, commit
            following = commit.parent

    def add(self, uid: str, path: str, source: Path | bytes) -> Entry:
        """Store a file's content for the repo of this uid, ready to be committed under this path."""
        if isinstance(source, bytes):
            size, sample = len(source), source[:512]
            sha256, _ = self.blobs.put([source])
        else:
            with source.open("rb") as file:
                sample = file.read(512)
            sha256, size = self.blobs.put(chunks(source))
        if is_lfs(path, size, sample):
            self.record_lfs(uid, sha256)
            return self.lfs_entry(sha256, size)
        return Entry(sha256, size, git_oid(size, chunks(self.blobs.path(sha256))), False)

    @staticmethod
    def lfs_entry(sha256: str, size: int) -> Entry:
        """The entry of an LFS file."""
        pointer = lfs_pointer(sha256, size)
        return Entry(sha256, size, git_oid(len(pointer), [pointer]), True)

    def _lfs_folder(self, sha256: str) -> Path:
        return self.root / "lfs" / sha256[:2] / sha256

    def record_lfs(self, uid: str, sha256: str) -> None:
        """Remember that this content was uploaded to this repo: knowing a hash alone must not give access to the content."""
        folder = self._lfs_folder(sha256)
        make_private(folder)
        (folder / uid).touch(0o600)
        sync_folder(folder)

    def lfs_holders(self, sha256: str) -> set[str]:
        """The uids of the repos to which this LFS content was uploaded."""
        folder = self._lfs_folder(sha256)
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def write_commit(
        self,
        repo: Repo,
        tree: Tree,
        *,
        parent: str | None,
        title: str,
        author: str,
        message: str = "",
        date: str | None = None,
    ) -> str:
        """Write a tree and a commit that holds it, without moving any ref.

        Returns:
            The commit's sha.
        """
        listing = json.dumps(dict(tree), sort_keys=True, separators=(",", ":")).encode()
        tree_sha, _ = self.blobs.put([listing])
        commit = Commit(
            repo=repo.uid, tree=tree_sha, parent=parent, title=title, message=message, author=author, date=date or now()
        )
        content = commit.model_dump_json().encode()
        sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        write_durably(self._commit_path(sha), content)
        return sha
