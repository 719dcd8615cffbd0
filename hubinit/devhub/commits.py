"""Changing a repo: what to upload how, commits, branches, tags and history."""

import base64
import binascii
import html
import io
import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from .calls import Call, clean, web_url
from .discussions import require_pushable
from .lfs import uploaded_entry
from .names import SHA256, check_path, check_ref, is_lfs
from .pulls import note_push, open_pull
from .records import MAIN, Entry, Repo
from .refusals import Refusal, bad_request, revision_not_found


def preupload(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/preupload/REV: how to send each file, and what is there now under its path."""
    call.signed_in()
    call.require_content(repo)
    sha = call.store.resolve(repo, rest[0] if rest else "main")
    tree = call.store.tree_of(sha)
    files = call.json().get("files")
    if not isinstance(files, list) or len(files) > 4096:
        raise bad_request("files must be a list of at most 4096 files.")
    answers = []
    for file in files:
        try:
            path, size, sample = check_path(file["path"]), int(file["size"]), base64.b64decode(file.get("sample") or "")
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
            raise bad_request("Each file needs a path, a size and a base64 sample.") from error
        answer = {"path": path, "uploadMode": "lfs" if is_lfs(path, size, sample) else "regular", "shouldIgnore": False}
        answers.append(answer | ({"oid": tree[path].etag} if path in tree else {}))
    return {"files": answers}


def commit(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/commit/REV: one atomic commit from NDJSON lines."""
    user = call.signed_in()
    revision = rest[0] if rest else "main"
    call.require_content(repo)
    if not call.flag("create_pr"):
        _ref_to_change(call, repo, revision)  # before anything is stored, and again when the repo is locked
    header, entries, deleted = _operations(call, repo)
    title, message = clean(header.get("summary") or "Update"), clean(header.get("description") or "")
    with call.store.edit(repo.type, repo.id) as repo:
        answer: dict[str, Any] = {"success": True}
        expected = header.get("parentCommit")
        if call.flag("create_pr"):
            fork = call.store.resolve(repo, str(expected or revision))
            number = open_pull(repo, fork, title=title, description=message, author=user, draft=False)
            ref = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{web_url(call, repo.type, repo.id)}/discussions/{number}"
        else:
            ref = _ref_to_change(call, repo, revision)
            if expected is not None and expected != repo.refs[ref]:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        before = repo.refs[ref]
        sha = call.store.advance(repo, ref, entries, delete=deleted, title=title, message=message, author=user)
        if ref.startswith("refs/pr/") and sha != before:
            note_push(repo.discussions[int(ref.removeprefix("refs/pr/")) - 1], sha, title, user)
    return answer | {
        "commitOid": sha,
        "commitUrl": f"{web_url(call, repo.type, repo.id)}/commit/{sha}",
        "hookOutput": "",
    }


def _ref_to_change(call: Call, repo: Repo, revision: str) -> str:
    """The full name of the branch or pull request that a commit goes to, when the user may.

    Raises:
        Refusal: it does not exist (404), or is not theirs to change (403).
    """
    if revision.startswith("refs/pr/"):
        if revision not in repo.refs:
            raise revision_not_found(revision)
        require_pushable(call, repo, revision)
        return revision
    ref = revision if revision.startswith("refs/heads/") else f"refs/heads/{revision}"
    if ref not in repo.refs:
        raise revision_not_found(revision)
    call.require_write(repo)
    return ref


def _lines(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in io.BytesIO(call.body):
        if line.strip():
            try:
                item = json.loads(line)
                key, value = item["key"], item["value"]
            except (ValueError, TypeError, KeyError, RecursionError):
                key, value = "", None
            if not isinstance(key, str) or not isinstance(value, dict):
                raise bad_request("Every line of a commit must be JSON with a key and a value.")
            yield key, value


def _operations(call: Call, repo: Repo) -> tuple[dict[str, Any], dict[str, Entry], list[str]]:
    """The header, the files to put and the paths to delete; the files' contents are stored on the way."""
    header: dict[str, Any] = {}
    entries: dict[str, Entry] = {}
    deleted: list[str] = []
    for key, value in _lines(call):
        if key == "header":
            header = value
            continue
        path = str(value.get("path", ""))
        if key == "deletedFile":
            deleted.append(check_path(path))
        elif key == "deletedFolder":
            deleted.append(check_path(path.rstrip("/")) + "/")
        elif key == "file":
            entries[check_path(path)] = call.store.add(repo.uid, path, _content(value))
        elif key == "lfsFile":
            entries[check_path(path)] = _lfs_file(call, repo, value)
        else:
            raise bad_request(f"{key[:50]!r} is not an operation of a commit.")
    if not header:
        raise bad_request("The commit has no header line.")
    return header, entries, deleted


def _content(value: dict[str, Any]) -> bytes:
    content = value.get("content", "")
    if not isinstance(content, str):
        raise bad_request("The content of a file must be a string.")
    if value.get("encoding") != "base64":
        return content.encode(errors="replace")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("The content of a file is not valid base64.") from None


def _lfs_file(call: Call, repo: Repo, value: dict[str, Any]) -> Entry:
    oid = str(value.get("oid", ""))
    entry = (
        uploaded_entry(call, repo, oid) if SHA256.fullmatch(oid) and value.get("algo", "sha256") == "sha256" else None
    )
    if entry is None or value.get("size", entry.size) != entry.size:
        raise bad_request(f"The LFS file {oid[:64]} of this size has not been uploaded.")
    return entry


def refs(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET …/refs: branches, tags and, when asked for, pull requests."""

    def below(prefix: str) -> list[dict[str, str]]:
        found = sorted((ref, sha) for ref, sha in repo.refs.items() if ref.startswith(prefix))
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha} for ref, sha in found]

    pulls = {"pullRequests": below("refs/pr/")} if call.flag("include_prs") else {}
    return {"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": below("refs/convert/")} | pulls


def create_branch(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/branch/NAME."""
    return _create_ref(
        call, repo, f"refs/heads/{check_ref('/'.join(rest))}", str(call.json().get("startingPoint") or "main")
    )


def create_tag(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/tag/REV."""
    return _create_ref(
        call, repo, f"refs/tags/{check_ref(str(call.json().get('tag', '')))}", rest[0] if rest else "main"
    )


def _create_ref(call: Call, repo: Repo, ref: str, target: str) -> dict[str, Any]:
    call.require_write(repo)
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
    title = clean(call.json().get("message") or "Super-squash")
    with call.store.edit(repo.type, repo.id) as repo:
        if ref not in repo.refs:
            raise revision_not_found(ref)
        tree = call.store.tree_of(repo.refs[ref])
        repo.refs[ref] = call.store.write_commit(repo, tree, parent=None, title=title, author=user)
    return {}


ROUTES = {
    ("POST", "preupload"): preupload,
    ("POST", "commit"): commit,
    ("GET", "refs"): refs,
    ("POST", "branch"): create_branch,
    ("DELETE", "branch"): delete_branch,
    ("POST", "tag"): create_tag,
    ("DELETE", "tag"): delete_tag,
    ("GET", "commits"): history,
    ("POST", "super-squash"): super_squash,
}
