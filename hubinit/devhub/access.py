"""Who may read the files of a gated repo: asking, granting, handling requests."""

from typing import Any

from starlette.responses import Response

from .calls import Call
from .records import Repo, now
from .refusals import Refusal, bad_request

STATUSES = ("pending", "accepted", "rejected")


def auth_check(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET …/auth-check[/write]: whether the asker may read the files, or write."""
    if rest == ["write"]:
        call.require_write(repo)
    else:
        call.require_content(repo)
    return {}


def ask(call: Call, repo: Repo) -> dict[str, Any]:
    """POST /ID/ask-access: ask to read a gated repo; `auto` ones say yes at once."""
    user = call.signed_in()
    with call.store.edit(repo.type, repo.id) as repo:
        _require_gated(repo)
        if user not in repo.access:
            _set(repo, user, "accepted" if repo.gated == "auto" else "pending")
        return {"status": repo.access[user]["status"]}


def requests(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET …/user-access-request/STATUS: who asked, or was accepted or rejected."""
    call.require_write(repo)
    _require_gated(repo)
    if len(rest) != 1 or rest[0] not in STATUSES:
        raise bad_request(f"The status must be one of {', '.join(STATUSES)}.")
    found = [(user, asked) for user, asked in repo.access.items() if asked["status"] == rest[0]]

    def show(item: tuple[str, dict[str, str]]) -> dict[str, Any]:
        user, asked = item
        return asked | {"requestId": _request_id(repo, user), "user": {"user": user, "fullname": user}}

    return call.page(found, show)


def decide(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/user-access-request/grant and /handle: give access, or change what was decided."""
    call.require_write(repo)
    body = call.json()
    with call.store.edit(repo.type, repo.id) as repo:
        _require_gated(repo)
        user = str(body.get("user") or _user_of_request(repo, body.get("requestId")))
        if user not in call.accounts:
            raise Refusal(404, f"There is no user {user[:50]!r}.")
        if rest == ["grant"]:
            if repo.grants(user):
                raise bad_request(f"{user} has access already.")
            _set(repo, user, "accepted")
        elif rest == ["handle"] and body.get("status") in STATUSES:
            if user not in repo.access:
                raise Refusal(404, f"{user} has not asked for access.")
            if repo.access[user]["status"] == body["status"]:
                raise bad_request(f"The request of {user} is {body['status']} already.")
            _set(repo, user, body["status"])
        else:
            raise bad_request(f"Grant access, or handle a request with one of {', '.join(STATUSES)}.")
    return {}


def _set(repo: Repo, user: str, status: str) -> None:
    repo.access[user] = {"status": status, "timestamp": now()}


def _require_gated(repo: Repo) -> None:
    if not repo.gated:
        raise bad_request(f"{repo.id} is not gated.")


def _request_id(repo: Repo, user: str) -> str:
    return f"{repo.uid}-{user}"


def _user_of_request(repo: Repo, request_id: Any) -> str:
    return next((user for user in repo.access if _request_id(repo, user) == request_id), "")


ROUTES = {
    ("GET", "auth-check"): auth_check,
    ("GET", "user-access-request"): requests,
    ("POST", "user-access-request"): decide,
}
