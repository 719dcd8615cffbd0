"""The embedded Hub's state on disk, usable with and without the server.

```
ROOT/
  blobs/ab/ab…        file contents and trees, by sha256
  commits/ab/ab…      one small JSON per commit, by its sha
  repos/model/NS/NAME.json    one JSON per repo: settings, refs, discussions
  lfs/ab/ab…/UID      this LFS content was uploaded to the repo of this uid
  lock                held, across processes, by whoever changes a repo
  in-use              see root.py
  tokens/NAME, secret see users.py and lfs.py
```

A commit is written from the leaves up and synced (blobs, tree, commit) before the repo's JSON is replaced atomically: a
process killed at any moment leaves the old head or the new one. Other processes (the seeding command) may write to a root
that is being served. Content that nothing refers to any more is not collected; a root is cheap to make anew.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from .blobs import make_private, sync_folder, write_durably
from .names import COMMIT_SHA, GITATTRIBUTES, RepoType, check_path, check_repo_id
from .objects import Objects
from .records import MAIN, Entry, Repo, changed_tree, now
from .refusals import Refusal, entry_not_found, repo_not_found, revision_not_found


class Store(Objects):
    """Repos, and the objects they are made of, under one root folder."""

    # Repos

    def repo_path(self, repo_type: RepoType, repo_id: str) -> Path:
        """Where a repo's JSON is; the id is checked, so the path cannot leave the root."""
        return self.root / "repos" / repo_type / f"{check_repo_id(repo_id)}.json"

    def lookup(self, repo_type: RepoType, repo_id: str) -> Repo:
        """A repo as it is now, or the note that it was moved.

        Raises:
            Refusal: (404) the repo is not there and was not moved.
        """
        try:
            return Repo.model_validate_json(self.repo_path(repo_type, repo_id).read_bytes())
        except FileNotFoundError:
            raise repo_not_found(repo_id) from None
        except ValidationError:
            path = self.repo_path(repo_type, repo_id)
            raise Refusal(500, f"The embedded Hub's file {path} is damaged; restore or delete it.") from None

    def load(self, repo_type: RepoType, repo_id: str) -> Repo:
        """A repo as it is now, under exactly this id.

        Raises:
            Refusal: (404) the repo does not exist under this id.
        """
        repo = self.lookup(repo_type, repo_id)
        if repo.moved_to:
            raise repo_not_found(repo_id)
        return repo

    def repo_exists(self, repo_type: RepoType, repo_id: str) -> bool:
        """Whether there is such a repo under exactly this id."""
        try:
            self.load(repo_type, repo_id)
        except Refusal:
            return False
        return True

    def repos(self, repo_type: RepoType) -> Iterator[Repo]:
        """All repos of one type, in the order of their ids."""
        for path in sorted((self.root / "repos" / repo_type).glob("*/*.json")):
            try:
                yield self.load(repo_type, f"{path.parent.name}/{path.stem}")
            except Refusal:
                continue  # moved, or deleted in this moment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock that everything that changes a repo takes, across threads and processes."""
        with os.fdopen(os.open(self.root / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def edit(self, repo_type: RepoType, repo_id: str) -> Iterator[Repo]:
        """A repo to change: locked, and saved at the end unless an exception says otherwise."""
        with self.locked():
            repo = self.load(repo_type, repo_id)
            before = repo.model_copy(deep=True)
            yield repo
            if repo != before:
                self.save(repo)

    def save(self, repo: Repo) -> None:
        """Replace a repo's JSON; the lock must be held."""
        path = self.repo_path(repo.type, repo.id)
        if not path.parent.exists():
            make_private(path.parent)
            sync_folder(path.parent.parent)
        write_durably(path, repo.model_dump_json(exclude_defaults=True).encode())

    def create_repo(
        self,
        repo_type: RepoType,
        repo_id: str,
        *,
        private: bool = False,
        exist_ok: bool = True,
        sdk: str | None = None,
        date: str | None = None,
    ) -> Repo:
        """Create a repo with an initial commit that holds `.gitattributes`.

        Args:
            repo_type: model, dataset or space.
            repo_id: `namespace/name`.
            private: visible to its owner only.
            exist_ok: return the existing repo instead of refusing.
            sdk: of a Space.
            date: when it was created (ISO 8601); fix it, and those of the commits, for shas that are the same everywhere.

        Raises:
            Refusal: (409) it exists already; (400) the id is not valid.
        """
        date = date or now()
        with self.locked():
            if self.repo_exists(repo_type, repo_id):
                if exist_ok:
                    return self.load(repo_type, repo_id)
                raise Refusal(409, f"You already created this {repo_type} repo: {repo_id}")
            uid = hashlib.sha256(f"{repo_type}/{repo_id}/{date}".encode()).hexdigest()[:24]
            repo = Repo(type=repo_type, id=repo_id, uid=uid, created=date, private=private, sdk=sdk)
            entries = {".gitattributes": self.add(repo.uid, ".gitattributes", GITATTRIBUTES)}
            self.advance(repo, MAIN, entries, title="initial commit", author=repo.owner, date=date)
            self.save(repo)
            return repo

    def delete_repo(self, repo_type: RepoType, repo_id: str) -> None:
        """Forget a repo. Its blobs stay: others may hold the same content."""
        with self.locked():
            self.load(repo_type, repo_id)
            path = self.repo_path(repo_type, repo_id)
            path.unlink()
            sync_folder(path.parent)

    # Commits

    def resolve(self, repo: Repo, revision: str) -> str:
        """The commit sha that a branch, tag, full ref or commit sha of a repo names.

        Raises:
            Refusal: (404, RevisionNotFound) the repo has no commit of that name.
        """
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in repo.refs:
                return repo.refs[name]
        known = COMMIT_SHA.fullmatch(revision) and self._commit_path(revision).exists()
        if not known or self.commit_of(revision).repo != repo.uid:
            raise revision_not_found(revision)
        return revision

    def commit(
        self,
        repo_type: RepoType,
        repo_id: str,
        files: Mapping[str, Path | bytes],
        *,
        message: str,
        author: str,
        delete: Iterable[str] = (),
        date: str | None = None,
    ) -> str:
        """Commit files to `main` in one atomic step, without a server.

        Args:
            repo_type: model, dataset or space.
            repo_id: an existing repo.
            files: path in the repo to content; a file on disk is copied without being held in memory.
            message: the commit's title.
            author: a user's name.
            delete: paths to remove; one ending in `/` is a folder.
            date: ISO 8601; now when not given.

        Returns:
            The sha of the new commit, or of the head when it holds exactly this already.

        Raises:
            Refusal: the repo or a path to delete does not exist, or a path is not valid.
        """
        uid = self.load(repo_type, repo_id).uid
        entries = {path: self.add(uid, check_path(path), source) for path, source in files.items()}
        with self.edit(repo_type, repo_id) as repo:
            return self.advance(repo, MAIN, entries, delete=delete, title=message, author=author, date=date)

    def advance(
        self,
        repo: Repo,
        ref: str,
        entries: Mapping[str, Entry],
        *,
        title: str,
        author: str,
        delete: Iterable[str] = (),
        message: str = "",
        date: str | None = None,
    ) -> str:
        """Put a commit on top of a ref of a repo under edit; nothing to change makes no commit.

        Returns:
            The sha that the ref now has.
        """
        parent = repo.refs.get(ref)
        old = self.tree_of(parent) if parent else {}
        new = changed_tree(old, entries, delete)
        if parent and new == old:
            return parent
        repo.refs[ref] = self.write_commit(
            repo, new, parent=parent, title=title, message=message, author=author, date=date
        )
        return repo.refs[ref]

    # Reading

    def entry(self, repo: Repo, sha: str, path: str) -> Entry:
        """The file of this path at a commit.

        Raises:
            Refusal: (404, EntryNotFound) the commit does not hold such a file.
        """
        entry = self.tree_of(sha).get(path)
        if entry is None:
            raise entry_not_found(path, sha)
        return entry

    def read(self, repo_type: RepoType, repo_id: str, path: str, revision: str = "main") -> bytes:
        """A file's content.

        Raises:
            Refusal: the repo, the revision or the file does not exist.
        """
        repo = self.load(repo_type, repo_id)
        return self.blobs.path(self.entry(repo, self.resolve(repo, revision), path).sha256).read_bytes()
