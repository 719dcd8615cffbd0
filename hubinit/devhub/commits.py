"""Changing the files of a repo: what to upload how, and commits."""

import base64
import binascii
import io
import re
from collections.abc import Iterator
from typing import Any

import re2
from pathspec import GitIgnoreSpec

from .bodies import parse_json
from .calls import Call, web_url
from .discussions import require_pushable
from .lfs import uploaded_entry
from .names import SHA256, check_path, is_lfs
from .pulls import PULLS, note_push, open_pull, pull_of, ref_of
from .records import Entry, Repo, Tree
from .refusals import Refusal, bad_request, revision_not_found

GITIGNORE_MAX_BYTES = 1 << 16


def preupload(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/preupload/REV: how to send each file, whether to send it at all, and what is there now under its path."""
    call.signed_in()
    call.require_content(repo)
    tree = call.store.tree_of(call.store.resolve(repo, rest[0] if rest else "main"))
    body = call.json()
    files = body.get("files")
    if not isinstance(files, list) or len(files) > 4096:
        raise bad_request("files must be a list of at most 4096 files.")
    ignored = _ignored(call, tree, body.get("gitIgnore"))
    answers = []
    for file in files:
        try:
            path, size, sample = check_path(file["path"]), int(file["size"]), base64.b64decode(file.get("sample") or "")
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
            raise bad_request("Each file needs a path, a size and a base64 sample.") from error
        mode = "lfs" if is_lfs(path, size, sample) else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": ignored.match_file(path)}
        answers.append(answer | ({"oid": tree[path].etag} if path in tree else {}))
    return {"files": answers}


def _ignored(call: Call, tree: Tree, sent: Any) -> GitIgnoreSpec:
    """Which files are not to be uploaded: by the `.gitignore` that is uploaded with them, else by the repo's own.

    Raises:
        Refusal: (400) it is not text, is too long, or is not a valid `.gitignore`.
    """
    content = sent
    if content is None:
        entry = tree.get(".gitignore")
        if entry is not None and entry.size <= GITIGNORE_MAX_BYTES:
            content = call.store.blobs.path(entry.sha256).read_text(errors="replace")
    if not isinstance(content or "", str) or len(content or "") > GITIGNORE_MAX_BYTES:
        raise bad_request(f".gitignore must be text of at most {GITIGNORE_MAX_BYTES} bytes.")
    try:
        # RE2 takes linear time; with Python's own engine one pattern of a stranger, `*a*a*a*a*b`, stops the server.
        return GitIgnoreSpec.from_lines((content or "").splitlines(), backend="re2")
    except (ValueError, re.error, re2.error) as error:
        raise bad_request(f".gitignore holds a pattern that is not valid, or too many of them: {error}") from error


def commit(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """POST …/commit/REV: one atomic commit from NDJSON lines, to a branch or a pull request."""
    user = call.signed_in()
    revision = rest[0] if rest else "main"
    call.require_content(repo)
    if not call.flag("create_pr"):
        _ref_to_change(call, repo, revision)  # before anything is stored, and again when the repo is locked
    header, entries, deleted = _operations(call, repo)
    title, message = _words(header)
    with call.store.edit(repo.type, repo.id) as repo:
        ref = _pull_or_branch(call, repo, revision, header)
        before = repo.refs[ref]
        sha = call.store.advance(repo, ref, entries, delete=deleted, title=title, message=message, author=user)
        if ref.startswith(PULLS) and sha != before:
            note_push(pull_of(repo, ref), sha, title, user)
    page = web_url(call, repo.type, repo.id)
    answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}", "hookOutput": ""}
    return answer | (
        {"pullRequestUrl": f"{page}/discussions/{ref.removeprefix(PULLS)}"} if call.flag("create_pr") else {}
    )


def _pull_or_branch(call: Call, repo: Repo, revision: str, header: dict[str, Any]) -> str:
    """The ref that a commit to a repo under edit goes to: that of a new pull request, or the one its address names.

    Raises:
        Refusal: the ref does not exist (404), is not theirs to change (403), or has moved on since the client looked (412).
    """
    parent = header.get("parentCommit")
    if call.flag("create_pr"):
        fork = call.store.resolve(repo, str(parent or revision))
        title, message = _words(header)
        return ref_of(open_pull(repo, fork, title=title, description=message, author=call.signed_in(), draft=False))
    ref = _ref_to_change(call, repo, revision)
    if parent is not None and parent != repo.refs[ref]:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    return ref


def _words(header: dict[str, Any]) -> tuple[str, str]:
    """A commit's title and message."""
    return str(header.get("summary") or "Update"), str(header.get("description") or "")


def _ref_to_change(call: Call, repo: Repo, revision: str) -> str:
    """The full name of the branch or pull request that a commit goes to, when the user may.

    Raises:
        Refusal: it does not exist (404), or is not theirs to change (403).
    """
    if revision.startswith(PULLS):
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
    for line in io.BytesIO(call.content()):
        if line.strip():
            try:
                item = parse_json(line)
                key, value = item["key"], item["value"]
            except (ValueError, TypeError, KeyError):
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
        return content.encode()
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


ROUTES = {("POST", "preupload"): preupload, ("POST", "commit"): commit}
