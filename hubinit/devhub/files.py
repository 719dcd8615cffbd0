"""Reading a repo: file contents with ranges, folder listings, information on chosen paths."""

import hashlib
import mimetypes
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.responses import FileResponse, Response

from .blobs import CHUNK
from .calls import Call
from .names import check_path
from .records import Entry, Repo, Tree
from .refusals import bad_request, entry_not_found


class BlobResponse(FileResponse):
    """A file in large pieces: each piece costs one hop to a thread."""

    chunk_size = CHUNK


def resolve(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET and HEAD …/resolve/REV/PATH: a file's content, with ranges."""
    if len(rest) < 2:
        raise bad_request("The path of a file is missing.")
    call.require_content(repo)
    sha, path = call.store.resolve(repo, rest[0]), "/".join(rest[1:])
    entry = call.store.entry(repo, sha, path)
    headers = {
        "X-Repo-Commit": sha,
        "ETag": f'"{entry.etag}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(rest[-1])}",
        # Content is other people's: a browser must neither guess its type nor run it under this address.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    media_type = kind if kind.startswith("image/") and kind != "image/svg+xml" else "text/plain; charset=utf-8"
    blob = call.store.blobs.path(entry.sha256)
    return BlobResponse(
        blob,
        headers=headers,
        media_type="application/octet-stream" if entry.lfs else media_type,
        stat_result=blob.stat(),
    )


def file_object(path: str, entry: Entry, *, siblings: bool = False) -> dict[str, Any]:
    """A file as the tree and paths-info calls, or the `siblings` of repo info, describe it."""
    pointer_size = len(f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry.sha256}\nsize {entry.size}\n")
    if siblings:
        described: dict[str, Any] = {"size": entry.size, "blobId": entry.oid}
        lfs = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    else:
        described = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
        lfs = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    return described | ({"lfs": lfs} if entry.lfs else {})


def folder_object(path: str, files: Iterable[tuple[str, Entry]]) -> dict[str, Any]:
    """A folder; its oid changes exactly when something in it does."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, entry in files:
        digest.update(f"{name}\0{entry.oid}\n".encode())
    return {"type": "directory", "path": path, "oid": digest.hexdigest()}


def within(tree: Tree, folder: str) -> list[tuple[str, Entry]]:
    """The files below a folder (all of them for the root, ""), by path."""
    prefix = f"{folder}/" if folder else ""
    return sorted((path, entry) for path, entry in tree.items() if path.startswith(prefix))


def listing(tree: Tree, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The objects in a folder; with those in its subfolders when recursive."""
    files = within(tree, folder)
    depth = folder.count("/") + 1 if folder else 0
    members: dict[str, list[tuple[str, Entry]]] = {}
    for path, entry in files:
        parts = path.split("/")
        for end in range(depth + 1, len(parts) if recursive else min(depth + 2, len(parts))):
            members.setdefault("/".join(parts[:end]), []).append((path, entry))
    folders = {path: folder_object(path, below) for path, below in members.items()}
    shown = {path: file_object(path, entry) for path, entry in files if recursive or path.count("/") == depth}
    return [value for _, value in sorted((folders | shown).items())]


def tree(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET …/tree/REV[/FOLDER]: a page of a folder's listing."""
    sha, folder = call.store.resolve(repo, rest[0] if rest else "main"), "/".join(rest[1:])
    files = call.store.tree_of(sha)
    if folder and not within(files, folder):
        raise entry_not_found(folder, sha)
    objects = listing(files, folder, recursive=call.flag("recursive"))
    if call.flag("expand"):
        add_last_commits(call, sha, objects)
    return call.page(objects, headers={"X-Repo-Commit": sha})


def paths_info(call: Call, repo: Repo, rest: list[str]) -> list[dict[str, Any]]:
    """POST …/paths-info/REV: the objects at the given paths; those that are not there are left out."""
    if call.headers.get("content-type", "").startswith("application/json"):
        body = call.json()
        paths, expand = body.get("paths"), body.get("expand") is True
    else:
        form = parse_qs(call.content().decode(errors="replace"))
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise bad_request("paths must be a list of paths.")
    sha = call.store.resolve(repo, rest[0] if rest else "main")
    files = call.store.tree_of(sha)
    objects = []
    for path in paths:
        path = path.strip("/")
        if path in files:
            objects.append(file_object(path, files[path]))
        elif path and (below := within(files, check_path(path))):
            objects.append(folder_object(path, below))
    if expand:
        add_last_commits(call, sha, objects)
    return objects


def add_last_commits(call: Call, sha: str, objects: list[dict[str, Any]]) -> None:
    """Add to each object the last commit that changed it, walking the history until all are found."""
    missing = {item["path"]: item for item in objects}
    for commit_sha, commit in call.store.history(sha):
        if not missing:
            return
        after = call.store.tree_of(commit_sha)
        before = call.store.tree_of(commit.parent) if commit.parent else {}
        changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
        touched = changed | {path[:end] for path in changed for end in range(len(path)) if path[end] == "/"}
        for path in touched & missing.keys():
            item = missing.pop(path)
            item["lastCommit"] = {"id": commit_sha, "title": commit.title, "date": commit.date}
            if item["type"] == "file":
                item["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}


ROUTES = {("GET", "tree"): tree, ("POST", "paths-info"): paths_info}
