"""Pull requests: a discussion with a ref of its own."""

from typing import Any

from .calls import Call
from .refusals import Refusal
from .store import Repo, now


def event(kind: str, author: str, **data: Any) -> dict[str, Any]:
    """An event of a discussion, without the id that `append_event` gives it."""
    return {"type": kind, "createdAt": now(), "author": author, "data": data}


def append_event(discussion: dict[str, Any], happened: dict[str, Any]) -> dict[str, Any]:
    """Add an event to a discussion; its id is its place in a sha-like form."""
    happened = {"id": f"{discussion['num']:08x}{len(discussion['events']):016x}"} | happened
    discussion["events"].append(happened)
    return happened


def comment(author: str, text: str) -> dict[str, Any]:
    """A comment as an event."""
    return event(
        "comment", author, edited=False, hidden=False, latest={"raw": text, "updatedAt": now(), "author": author}
    )


def open_discussion(repo: Repo, *, title: str, description: str, author: str, status: str = "open") -> dict[str, Any]:
    """Add a discussion, opened by its first comment, to a repo under edit."""
    number = len(repo.discussions) + 1
    discussion: dict[str, Any] = {
        "num": number,
        "title": title,
        "status": status,
        "isPullRequest": False,
        "createdAt": now(),
        "author": author,
        "events": [],
    }
    append_event(discussion, comment(author, description))
    repo.discussions.append(discussion)
    return discussion


def open_pull(repo: Repo, base: str, *, title: str, description: str, author: str, draft: bool) -> int:
    """Add a pull request on top of a commit to a repo under edit.

    Returns:
        Its number; its ref is `refs/pr/NUMBER`.
    """
    status = "draft" if draft else "open"
    discussion = open_discussion(repo, title=title, description=description, author=author, status=status)
    discussion |= {"isPullRequest": True, "changes": {"base": "refs/heads/main"}}
    repo.refs[f"refs/pr/{discussion['num']}"] = base
    return int(discussion["num"])


def may_push_to_pull(call: Call, repo: Repo, ref: str) -> None:
    """Let pass the author of a pull request and the owner of the repo, while it is not closed.

    Raises:
        Refusal: (403) it is someone else's, or closed.
    """
    discussion = repo.discussions[int(ref.rsplit("/", 1)[1]) - 1]
    if not call.owns(repo) and call.user != discussion["author"]:
        raise Refusal(403, "Only its author and the owner of the repo may push to this pull request.")
    if discussion["status"] not in ("draft", "open"):
        raise Refusal(403, "This pull request is closed.")


def note_push(repo: Repo, number: int, sha: str, title: str, author: str) -> None:
    """Record in a pull request that a commit was pushed to it."""
    append_event(repo.discussions[number - 1], event("commit", author, oid=sha, subject=title))
