"""Every route of the embedded Hub that may take a body, found in the application itself, with bodies that it accepts."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from hubinit.devhub import app, discussions, lfs

REPO = "alice/fuzz"
OID = "a" * 64
_TEXT = base64.b64encode(b"text").decode()

# (method, action) -> what follows it in the path, and a body. A route that is not named here is tried with little.
EXAMPLES: dict[tuple[str, str], list[tuple[str, Any]]] = {
    ("POST", "preupload"): [
        ("/main", {"files": [{"path": "a.txt", "size": 4, "sample": _TEXT}], "gitIgnore": "*.log\n"})
    ],
    ("POST", "commit"): [
        (
            "/main",
            [
                {"key": "header", "value": {"summary": "a", "description": "b", "parentCommit": None}},
                {"key": "file", "value": {"path": "a.txt", "content": _TEXT, "encoding": "base64"}},
                {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": OID, "size": 4}},
                {"key": "deletedFile", "value": {"path": "b.txt"}},
                {"key": "deletedFolder", "value": {"path": "c/"}},
            ],
        )
    ],
    ("POST", "paths-info"): [("/main", {"paths": ["a.txt", "b"], "expand": True})],
    ("POST", "branch"): [("/new", {"startingPoint": "main"})],
    ("POST", "tag"): [("/main", {"tag": "v1", "message": "first"})],
    ("POST", "super-squash"): [("/main", {"message": "squash"})],
    ("POST", "duplicate"): [("", {"repository": "alice/copy", "visibility": "private", "private": True})],
    ("PUT", "settings"): [("", {"visibility": "public", "private": False, "gated": "auto"})],
    ("POST", "user-access-request"): [
        ("/grant", {"user": "bob"}),
        ("/handle", {"user": "bob", "requestId": "x-bob", "status": "accepted"}),
    ],
    ("POST", "discussions"): [
        ("", {"title": "a", "description": "b", "pullRequest": True}),
        *(
            (f"/1/{action.replace('/', '/0000000100000000/')}", {"comment": "c", "content": "d", "title": "e"})
            for action in discussions.ACTIONS
            if action != "status"
        ),
        ("/1/status", {"status": "closed", "comment": "c"}),
    ],
    ("POST", "repos/create"): [
        ("", {"name": "fuzz-new", "organization": None, "type": "space", "sdk": "static", "visibility": "private"})
    ],
    ("DELETE", "repos/delete"): [("", {"name": "fuzz-new", "organization": "alice", "type": "model"})],
    ("POST", "repos/move"): [("", {"fromRepo": "alice/fuzz-old", "toRepo": "alice/fuzz-moved", "type": "model"})],
    ("POST", "validate-yaml"): [("", {"content": "---\nlicense: mit\ntags: [a]\n---\n", "repoType": "model"})],
    ("POST", "complete"): [("", {"oid": OID, "parts": [{"partNumber": 1, "etag": OID}]})],
    ("POST", "verify"): [("", {"oid": OID, "size": 4})],
}
UNTABLED = [  # the two that route() knows by the shape of their paths
    (
        "POST",
        f"/{REPO}.git/info/lfs/objects/batch",
        {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": OID, "size": 1 << 30}],
            "hash_algo": "sha256",
            "ref": {"name": "main"},
        },
    ),
    ("POST", f"/{REPO}/ask-access", {}),
]


def body_routes() -> Iterator[tuple[str, str, Any]]:
    """Method, path and an accepted body of each route that is not only read."""
    tables = [(f"/api/models/{REPO}/", app.REPO_ROUTES), ("/api/", app.ROOT_ROUTES), ("/lfs/", lfs.ROOT_ROUTES)]
    for prefix, table in tables:
        for method, action in table:
            if method != "GET":
                for tail, body in EXAMPLES.get((method, action), [("", {}), ("/main", {"name": "a"})]):
                    yield method, f"{prefix}{action}{tail}", body
    yield from UNTABLED


def encoded(body: Any) -> bytes:
    """A body as it is sent; a list is a commit's lines."""
    lines = body if isinstance(body, list) else [body]
    return "\n".join(map(json.dumps, lines)).encode()
