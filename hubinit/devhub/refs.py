"""Branches, tags and the history behind them."""

import html
from typing import Any

from starlette.responses import Response

from .calls import Call
from .names import check_ref
from .pulls import PULLS
from .records import MAIN, Repo
from .refusals import Refusal, revision_not_found


def refs(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET …/refs: branches, tags and, when asked for, pull requests."""

    def below(prefix: str) -> list[dict[str, str]]:
        found = sorted((ref, sha) for ref, sha in repo.refs.items() if ref.startswith(prefix))
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha} for ref, sha in found]

    pulls = {"pullRequests": below(PULLS)} if call.flag("include_prs") else {}
    return {"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": below("refs/convert/")} | pulls


def create_branch(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/branch/NAME."""
    call.require_write(repo)
    return _create_ref(
        call, repo, f"refs/heads/{check_ref('/'.join(rest))}", str(call.json().get("startingPoint") or "main")
    )


def create_tag(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/tag/REV."""
    call.require_write(repo)
    return _create_ref(
        call, repo, f"refs/tags/{check_ref(str(call.json().get('tag', '')))}", rest[0] if rest else "main"
    )


def _create_ref(call: Call, repo: Repo, ref: str, target: str) -> dict[str, Any]:
    with call.store.edit(repo.type, repo.id) as repo:
        if ref in repo.refs:
            raise Refusal(409, f"{ref} exists already.")
        repo.refs[ref] = call.store.resolve(repo, target)
    return {}


def delete_branch(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """DELETE …/branch/NAME; main stays."""
    return _delete_ref(call, repo, f"refs/heads/{'/'.join(rest)}")


def delete_tag(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """DELETE …/tag/NAME."""
    return _delete_ref(call, repo, f"refs/tags/{'/'.join(rest)}")


def _delete_ref(call: Call, repo: Repo, ref: str) -> dict[str, Any]:
    call.require_write(repo)
    if ref == MAIN:
        raise Refusal(403, "The branch main cannot be deleted.")
    with call.store.edit(repo.type, repo.id) as repo:
        if repo.refs.pop(ref, None) is None:
            raise revision_not_found(ref)
    return {}


def history(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET …/commits/REV: a page of the history, newest first."""
    formatted = "formatted" in [*call.query.getlist("expand[]"), *call.query.getlist("expand")]

    def show(item: tuple[str, Any]) -> dict[str, Any]:
        sha, made = item
        plain = {
            "id": sha,
            "title": made.title,
            "message": made.message,
            "date": made.date,
            "authors": [{"user": made.author}],
        }
        rendered = {"title": html.escape(made.title), "message": html.escape(made.message)}
        return plain | ({"formatted": rendered} if formatted else {})

    return call.page(call.store.history(call.store.resolve(repo, rest[0] if rest else "main")), show)


def super_squash(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/super-squash/BRANCH: forget the branch's history."""
    user = call.require_write(repo)
    ref = f"refs/heads/{rest[0] if rest else 'main'}"
    title = str(call.json().get("message") or "Super-squash")
    with call.store.edit(repo.type, repo.id) as repo:
        if ref not in repo.refs:
            raise revision_not_found(ref)
        tree = call.store.tree_of(repo.refs[ref])
        repo.refs[ref] = call.store.write_commit(repo, tree, parent=None, title=title, author=user)
    return {}


ROUTES = {
    ("GET", "refs"): refs,
    ("POST", "branch"): create_branch,
    ("DELETE", "branch"): delete_branch,
    ("POST", "tag"): create_tag,
    ("DELETE", "tag"): delete_tag,
    ("GET", "commits"): history,
    ("POST", "super-squash"): super_squash,
}
