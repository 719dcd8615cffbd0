"""Accounts and repos themselves: who am I, create, delete, rename, settings, card validation, access."""

from collections.abc import Mapping
from typing import Any, cast

from starlette.responses import JSONResponse

from .calls import Call, web_url
from .cards import problems
from .names import REPO_TYPES, RepoType, check_repo_id
from .records import MAIN, Repo
from .refusals import Refusal, bad_request

SDKS = ("gradio", "docker", "static", "streamlit")
VISIBILITIES = ("public", "private", "protected")


def whoami(call: Call) -> dict[str, Any]:
    """GET /api/whoami-v2."""
    user = call.signed_in()
    token = {"displayName": "embedded Hub", "role": "write"}
    return {
        "type": "user",
        "id": user,
        "name": user,
        "fullname": user,
        "isPro": False,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _type(value: Any) -> RepoType:
    value = value or "model"
    if value not in REPO_TYPES:
        raise bad_request(f"{str(value)[:50]!r} is not a type of repo; there are {', '.join(REPO_TYPES)}.")
    return cast("RepoType", value)


def _private(body: dict[str, Any]) -> bool | None:
    """The wished visibility; None when nothing is said. Clients before 1.0 say `private`."""
    if (visibility := body.get("visibility")) is not None:
        if visibility not in VISIBILITIES:
            raise bad_request(f"visibility must be one of {', '.join(VISIBILITIES)}.")
        return bool(visibility != "public")
    return bool(body["private"]) if body.get("private") is not None else None


def _named(call: Call, body: dict[str, Any]) -> tuple[RepoType, str, str]:
    """Type, namespace and full id of the repo that a create or delete call names."""
    user, name = call.signed_in(), str(body.get("name") or "")
    namespace = str(body.get("organization") or user)
    return _type(body.get("type")), namespace, check_repo_id(name if "/" in name else f"{namespace}/{name}")


def create(call: Call) -> dict[str, Any] | JSONResponse:
    """POST /api/repos/create."""
    call.signed_in()
    body = call.json()
    repo_type, _, repo_id = _named(call, body)
    if repo_id.partition("/")[0] != call.user:
        raise Refusal(
            403, f"You don't have the rights to create a {repo_type} under the namespace {repo_id.partition('/')[0]!r}."
        )
    sdk = body.get("sdk") if repo_type == "space" else None
    if repo_type == "space" and sdk not in SDKS:
        raise bad_request(f"A Space needs an sdk: {', '.join(SDKS)}.")
    answer = {"url": web_url(call, repo_type, repo_id), "name": repo_id}
    try:
        repo = call.store.create_repo(repo_type, repo_id, private=bool(_private(body)), exist_ok=False, sdk=sdk)
    except Refusal as refusal:
        if refusal.status == 409:
            return _conflict(refusal, answer)
        raise
    return answer | {"id": repo.uid, "private": repo.private}


def _conflict(refusal: Refusal, answer: Mapping[str, Any]) -> JSONResponse:
    # The client reads `url` from this body when it was told that the repo may exist.
    return JSONResponse({"error": str(refusal), **answer}, status_code=409, headers={"X-Error-Message": str(refusal)})


def delete(call: Call) -> dict[str, Any]:
    """DELETE /api/repos/delete."""
    call.signed_in()
    repo_type, _, repo_id = _named(call, call.json())
    repo = call.find(repo_type, repo_id)
    call.require_write(repo)
    call.store.delete_repo(repo_type, repo_id)
    return {}


def move(call: Call) -> dict[str, Any]:
    """POST /api/repos/move."""
    call.signed_in()
    body = call.json()
    repo_type, old, new = _type(body.get("type")), str(body.get("fromRepo")), check_repo_id(str(body.get("toRepo")))
    user = call.require_write(call.find(repo_type, old))
    if new.partition("/")[0] != user:
        raise Refusal(403, f"You may not move a repo into the namespace {new.partition('/')[0]!r}.")
    store = call.store
    with store.locked():
        repo = store.load(repo_type, old)
        if store.repo_exists(repo_type, new):
            raise Refusal(409, f"The {repo_type} repo {new} exists already.")
        store.save(repo.model_copy(update={"id": new}))
        # What stays under the old id redirects to the new one.
        store.save(Repo(type=repo_type, id=old, uid=repo.uid, created=repo.created, private=repo.private, moved_to=new))
    return {"url": web_url(call, repo_type, new)}


def settings(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """PUT …/settings: visibility and gating."""
    call.require_write(repo)
    body = call.json()
    gated, private = body.get("gated"), _private(body)
    if gated not in (None, False, "auto", "manual"):
        raise bad_request("gated must be false, auto or manual.")
    with call.store.edit(repo.type, repo.id) as repo:
        if gated is not None:
            repo.gated = gated
        if private is not None:
            repo.private = private
    return {"private": repo.private, "gated": repo.gated}


def duplicate(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any] | JSONResponse:
    """POST …/duplicate: a new repo with the files of this one, in one commit."""
    user, body = call.signed_in(), call.json()
    call.require_content(repo)
    new_id = check_repo_id(str(body.get("repository")))
    if new_id.partition("/")[0] != user:
        raise Refusal(403, f"You may not create a repo under the namespace {new_id.partition('/')[0]!r}.")
    private = _private(body)
    answer = {"url": web_url(call, repo.type, new_id), "filesCopyPending": False}
    store, tree = call.store, call.store.tree_of(repo.head)
    try:
        copy = store.create_repo(
            repo.type, new_id, private=repo.private if private is None else private, exist_ok=False, sdk=repo.sdk
        )
    except Refusal as refusal:
        if refusal.status == 409:
            return _conflict(refusal, answer)
        raise
    for entry in tree.values():
        if entry.lfs:
            store.record_lfs(copy.uid, entry.sha256)
    with store.edit(repo.type, new_id) as copy:
        store.advance(copy, MAIN, tree, title=f"Duplicate from {repo.id}", author=user)
    return answer


def validate_yaml(call: Call) -> JSONResponse:
    """POST /api/validate-yaml: what is wrong with a card."""
    errors = [{"message": problem} for problem in problems(str(call.json().get("content", "")))]
    return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)


def no_xet(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET …/xet-read-token, …/xet-write-token: say what to do."""
    raise Refusal(404, "The embedded Hub has no Xet storage: set HF_HUB_DISABLE_XET=1 before Python starts.")


ROOT_ROUTES = {
    ("GET", "whoami-v2"): whoami,
    ("POST", "repos/create"): create,
    ("DELETE", "repos/delete"): delete,
    ("POST", "repos/move"): move,
    ("POST", "validate-yaml"): validate_yaml,
}
ROUTES = {
    ("PUT", "settings"): settings,
    ("POST", "duplicate"): duplicate,
    ("GET", "xet-read-token"): no_xet,
    ("GET", "xet-write-token"): no_xet,
}
