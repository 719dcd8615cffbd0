"""The routes of discussions and pull requests. Whoever is signed in and may read a repo may discuss it and propose changes."""

import html
from typing import Any

from . import pulls
from .calls import Call
from .pulls import Discussion
from .records import Repo, now
from .refusals import Refusal, bad_request

PAGE = 10
TYPES = {None: (True, False), "all": (True, False), "discussion": (False,), "pull_request": (True,)}
STATUSES = {"open": ("open", "draft"), "closed": ("closed", "merged")}


def summary(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    """A discussion as a list shows it."""
    shown = {name: discussion[name] for name in ("num", "title", "status", "isPullRequest", "createdAt")}
    return shown | {"author": {"name": discussion["author"]}, "repo": {"name": repo.id, "type": repo.type}}


def shown_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event as clients read it: authors as objects, comments also as HTML that cannot do anything."""
    data = dict(event["data"])
    if event["type"] == "comment":
        latest = data["latest"]
        raw = latest["raw"]
        data["latest"] = latest | {"html": f"<p>{html.escape(raw)}</p>", "author": {"name": latest["author"]}}
    return event | {"author": {"name": event["author"]}, "data": data}


def details(call: Call, repo: Repo, discussion: Discussion) -> dict[str, Any]:
    """A discussion with its events and, for a pull request, what it changes."""
    shown = summary(repo, discussion) | {"events": [shown_event(event) for event in discussion["events"]]}
    if not discussion["isPullRequest"]:
        return shown
    merged = {"mergeCommitId": discussion["merged"]} if discussion["merged"] else {}
    shown["changes"] = {"base": "refs/heads/main"} | merged
    shown["filesWithConflicts"] = [] if merged else pulls.conflicts(call.store, repo, discussion)
    if call.flag("diff") and repo.grants(call.user):
        shown["diff"] = pulls.diff(call.store, repo, discussion)
    return shown


def read(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET …/discussions and …/discussions/N."""
    if rest:
        return details(call, repo, find(repo, rest[0]))
    kinds = TYPES.get(call.query.get("type"), ())
    wanted = STATUSES.get(call.query.get("status", "all"))
    author = call.query.get("author")
    found = [
        discussion
        for discussion in reversed(repo.discussions)
        if discussion["isPullRequest"] in kinds
        and (wanted is None or discussion["status"] in wanted)
        and author in (None, discussion["author"])
    ]
    page = call.query.get("p", "0")
    start = PAGE * int(page) if page.isdecimal() and len(page) < 10 else 0
    shown = [summary(repo, discussion) for discussion in found[start : start + PAGE]]
    return {"discussions": shown, "count": len(found), "start": start}


def find(repo: Repo, number: str) -> Discussion:
    """A repo's discussion by its number.

    Raises:
        Refusal: (404) the repo does not have a discussion of this number.
    """
    if not number.isdecimal() or len(number) > 9 or not 1 <= int(number) <= len(repo.discussions):
        raise Refusal(404, f"{repo.id} has no discussion {number[:20]}.")
    return repo.discussions[int(number) - 1]


def write(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/discussions and what can be done to one: comment, title, status, merge."""
    user, body = call.signed_in(), call.json()
    if not rest:
        return _open(call, repo, user, body)
    action = "/".join(rest[1:2] + rest[3:])
    handler = ACTIONS.get(action)
    if handler is None:
        raise Refusal(404, "The embedded Hub does not have this part of the API.")
    with call.store.edit(repo.type, repo.id) as repo:
        discussion = find(repo, rest[0])
        return handler(call, repo, discussion, body | {"comment_id": rest[2] if len(rest) > 2 else ""})


def _open(call: Call, repo: Repo, user: str, body: dict[str, Any]) -> dict[str, Any]:
    title, description = text(body, "title"), str(body.get("description") or "")
    with call.store.edit(repo.type, repo.id) as repo:
        if body.get("pullRequest"):
            opened = pulls.open_pull(repo, repo.head, title=title, description=description, author=user, draft=True)
        else:
            opened = pulls.open_discussion(repo, title=title, description=description, author=user)
    return {"num": opened["num"], "pullRequest": bool(body.get("pullRequest"))}


def text(body: dict[str, Any], name: str) -> str:
    """A text that must not be empty.

    Raises:
        Refusal: (400) it is.
    """
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise bad_request(f"{name} must not be empty.")
    return value


def require_author(call: Call, repo: Repo, author: str) -> str:
    """Let pass the author of something and the owner of the repo.

    Raises:
        Refusal: (403) it is someone else.
    """
    user = call.signed_in()
    if not call.owns(repo) and user != author:
        raise Refusal(403, "Only the author and the owner of the repo may do this.")
    return user


def require_pushable(call: Call, repo: Repo, ref: str) -> Discussion:
    """The pull request behind a ref, when the asker may push to it.

    Raises:
        Refusal: (403) it is someone else's, or closed.
    """
    discussion = find(repo, ref.removeprefix(pulls.PULLS))
    require_author(call, repo, discussion["author"])
    if discussion["status"] not in STATUSES["open"]:
        raise Refusal(403, "This pull request is closed.")
    return discussion


def _comment(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    event = pulls.append_comment(discussion, call.signed_in(), text(body, "comment"))
    return {"newMessage": shown_event(event)}


def _comment_to_change(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any]
    for event in discussion["events"]:
        if event["id"] == body["comment_id"] and event["type"] == "comment":
            require_author(call, repo, event["author"])
            return event
    raise Refusal(404, "There is no such comment.")


def _edit(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    event = _comment_to_change(call, repo, discussion, body)
    data = event["data"]
    data["history"].append(data["latest"])
    data["latest"] = {"raw": text(body, "content"), "updatedAt": now(), "author": call.user}
    data["edited"] = True
    return {"updatedComment": shown_event(event)}


def _hide(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    event = _comment_to_change(call, repo, discussion, body)
    event["data"] |= {"hidden": True, "history": []}
    event["data"]["latest"]["raw"] = ""
    return {"updatedComment": shown_event(event)}


def _title(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    user = require_author(call, repo, discussion["author"])
    old, discussion["title"] = discussion["title"], text(body, "title")
    event = pulls.append_event(discussion, "title-change", user, **{"from": old, "to": discussion["title"]})
    return {"newTitle": shown_event(event)}


def _status(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    user = require_author(call, repo, discussion["author"])
    status = body.get("status")
    if status not in ("open", "closed") or discussion["status"] == "merged":
        raise bad_request(f"A discussion that is {discussion['status']} cannot become {str(status)[:20]!r}.")
    return {"newStatus": shown_event(_change_status(discussion, user, status, body))}


def _change_status(discussion: Discussion, user: str, status: str, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("comment"):
        pulls.append_comment(discussion, user, text(body, "comment"))
    discussion["status"] = status
    return pulls.append_event(discussion, "status-change", user, status=status)


def _merge(call: Call, repo: Repo, discussion: Discussion, body: dict[str, Any]) -> dict[str, Any]:
    user = call.require_write(repo)
    if not discussion["isPullRequest"] or discussion["status"] != "open":
        raise bad_request(f"Only open pull requests can be merged; this is {discussion['status']}.")
    if conflicting := pulls.conflicts(call.store, repo, discussion):
        raise Refusal(409, f"The pull request conflicts with main in {', '.join(conflicting[:5])}.")
    sha = pulls.merge(call.store, repo, discussion, author=user)
    _change_status(discussion, user, "merged", body)
    return {"mergeCommitId": sha}


ACTIONS = {
    "comment": _comment,
    "comment/edit": _edit,
    "comment/hide": _hide,
    "title": _title,
    "status": _status,
    "merge": _merge,
}
ROUTES = {("GET", "discussions"): read, ("POST", "discussions"): write}
