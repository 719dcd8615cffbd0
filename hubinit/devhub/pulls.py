"""Discussions and pull requests as data: events, and what merging means. The routes are in discussions.py.

A pull request is a discussion with a ref of its own, `refs/pr/NUMBER`, that starts at a commit of main (`fork`). Merging applies
what it changed since then to main as it is now; a file that both changed, differently, is a conflict.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from .blobs import lfs_pointer
from .records import MAIN, Entry, Repo, Tree, now
from .store import Store

Discussion = dict[str, Any]
DIFF_MAX_BYTES = 200_000
PULLS = "refs/pr/"


def append_event(discussion: Discussion, kind: str, author: str, **data: Any) -> dict[str, Any]:
    """Add an event to a discussion; its id is unique in the repo."""
    event_id = f"{discussion['num']:08x}{len(discussion['events']):016x}"
    event = {"id": event_id, "type": kind, "createdAt": now(), "author": author, "data": data}
    discussion["events"].append(event)
    return event


def append_comment(discussion: Discussion, author: str, text: str) -> dict[str, Any]:
    """Add a comment to a discussion."""
    latest = {"raw": text, "updatedAt": now(), "author": author}
    return append_event(discussion, "comment", author, edited=False, hidden=False, latest=latest, history=[])


def open_discussion(repo: Repo, *, title: str, description: str, author: str, status: str = "open") -> Discussion:
    """Add a discussion, opened by its first comment, to a repo under edit."""
    discussion: Discussion = {
        "num": len(repo.discussions) + 1,
        "title": title,
        "status": status,
        "isPullRequest": False,
        "createdAt": now(),
        "author": author,
        "events": [],
    }
    append_comment(discussion, author, description)
    repo.discussions.append(discussion)
    return discussion


def open_pull(repo: Repo, fork: str, *, title: str, description: str, author: str, draft: bool) -> Discussion:
    """Add a pull request that starts at a commit of main to a repo under edit."""
    status = "draft" if draft else "open"
    discussion = open_discussion(repo, title=title, description=description, author=author, status=status)
    discussion |= {"isPullRequest": True, "fork": fork, "merged": None}
    repo.refs[ref_of(discussion)] = fork
    return discussion


def ref_of(discussion: Discussion) -> str:
    """The ref to which a pull request's commits go."""
    return f"{PULLS}{discussion['num']}"


def pull_of(repo: Repo, ref: str) -> Discussion:
    """The pull request of a repo to which this ref belongs."""
    return repo.discussions[int(ref.removeprefix(PULLS)) - 1]


def note_push(discussion: Discussion, sha: str, title: str, author: str) -> None:
    """Record in a pull request that a commit was pushed to it."""
    append_event(discussion, "commit", author, oid=sha, subject=title)


def changes(fork: Tree, pull: Tree) -> dict[str, Entry | None]:
    """What a pull request changed: the new entry of each path, None for a deleted one."""
    return {path: pull.get(path) for path in sorted(fork.keys() | pull.keys()) if fork.get(path) != pull.get(path)}


def conflicts(store: Store, repo: Repo, discussion: Discussion) -> list[str]:
    """The files that both main and an unmerged pull request changed, differently, since it was opened."""
    fork, pull = store.tree_of(discussion["fork"]), store.tree_of(repo.refs[ref_of(discussion)])
    main = store.tree_of(repo.head)
    return [path for path, entry in changes(fork, pull).items() if main.get(path) not in (fork.get(path), entry)]


def merge(store: Store, repo: Repo, discussion: Discussion, *, author: str) -> str:
    """Commit what a pull request without conflicts changed to main of a repo under edit.

    Returns:
        The sha that main now has.
    """
    main = store.tree_of(repo.head)
    changed = changes(store.tree_of(discussion["fork"]), store.tree_of(repo.refs[ref_of(discussion)]))
    sha = store.advance(
        repo,
        MAIN,
        {path: entry for path, entry in changed.items() if entry is not None},
        delete=[path for path, entry in changed.items() if entry is None and path in main],
        title=f"{discussion['title']} (#{discussion['num']})",
        author=author,
    )
    discussion |= {"status": "merged", "merged": sha}
    return sha


def diff(store: Store, repo: Repo, discussion: Discussion) -> str:
    """A pull request's changes as a unified diff; LFS files show their pointers, and what is too long is left out."""
    fork, pull = store.tree_of(discussion["fork"]), store.tree_of(repo.refs[ref_of(discussion)])
    pieces: list[str] = []
    for path, entry in changes(fork, pull).items():
        before, after = _lines(store, fork.get(path)), _lines(store, entry)
        names = f"a/{path}" if path in fork else "/dev/null", f"b/{path}" if entry else "/dev/null"
        pieces += [f"diff --git a/{path} b/{path}\n", *_terminated(difflib.unified_diff(before, after, *names))]
    return "".join(pieces)


def _lines(store: Store, entry: Entry | None) -> list[str]:
    if entry is None:
        return []
    if entry.lfs:
        return lfs_pointer(entry.sha256, entry.size).decode().splitlines(keepends=True)
    if entry.size > DIFF_MAX_BYTES:
        return [f"({entry.size} bytes, {entry.oid})\n"]
    return store.blobs.path(entry.sha256).read_text(errors="replace").splitlines(keepends=True)


def _terminated(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
