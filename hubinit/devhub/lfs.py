"""Large files: the LFS batch call, and uploads in one or several parts to signed addresses that expire.

The addresses carry their own permission, because clients send no token with an upload: an HMAC over what may be uploaded where.
"""

import hashlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from hmac import compare_digest, digest
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .blobs import chunks, make_private, sync_file, write_durably
from .bodies import arriving
from .calls import Call
from .names import REPO_TYPES, SHA256
from .records import Entry, Repo
from .refusals import Refusal, bad_request

SIGNED = ("action", "uid", "oid", "size", "part", "folder", "expires")

MAX_OBJECTS = 1000  # of one call
MAX_PARTS = 10_000  # of one upload, as with S3


def server_secret(root: Path) -> bytes:
    """The key that signs upload addresses, made once per root."""
    path = root / "secret"
    if not path.exists():
        write_durably(path, secrets.token_bytes(32))
    return path.read_bytes()


def _signature(secret: bytes, fields: dict[str, str]) -> str:
    text = "\n".join(fields.get(name, "") for name in SIGNED)
    return digest(secret, text.encode(), "sha256").hex()


def _signed_url(call: Call, **fields: str) -> str:
    fields["expires"] = str(int(time.time()) + call.settings.upload_seconds)
    return (
        f"{call.base_url}/lfs/{fields['action']}?{urlencode(fields | {'signature': _signature(call.secret, fields)})}"
    )


def _checked(call: Call, action: str) -> dict[str, str]:
    """The fields of a signed address.

    Raises:
        Refusal: (403) it was not signed by this server for this, or has expired.
    """
    fields = {name: call.query[name] for name in SIGNED if name in call.query} | {"action": action}
    if not compare_digest(_signature(call.secret, fields).encode(), call.query.get("signature", "").encode()):
        raise Refusal(403, "The signature of this upload address is not valid.")
    if int(fields["expires"]) < time.time():
        raise Refusal(403, "This upload address has expired; start the upload again.")
    return fields


def uploaded_entry(call: Call, repo: Repo, oid: str) -> Entry | None:
    """The LFS file of this hash, when it was uploaded to this repo or to another one whose files the asker may read."""
    path = call.store.blobs.path(oid)
    holders = call.store.lfs_holders(oid)
    if not holders or not path.exists():
        return None
    if repo.uid not in holders and not any(other.uid in holders for other in _readable(call)):
        return None
    return call.store.lfs_entry(oid, path.stat().st_size)


def _readable(call: Call) -> Iterator[Repo]:
    for repo_type in REPO_TYPES:
        for repo in call.store.repos(repo_type):
            if call.may_read(repo) and repo.grants(call.user):
                yield repo


def batch(call: Call, repo: Repo) -> Response:
    """POST …git/info/lfs/objects/batch: where to upload what is not there yet. Whoever is signed in may, for a pull request."""
    call.signed_in()
    body = call.json()
    if body.get("operation") != "upload":
        raise bad_request("Only uploads go through the LFS batch call; download files with GET …/resolve/….")
    objects = body.get("objects")
    if not isinstance(objects, list):
        raise bad_request("objects must be a list.")
    if len(objects) > MAX_OBJECTS:
        raise bad_request(f"One call names {MAX_OBJECTS} objects at most.")
    transfers = body.get("transfers") or ["basic"]
    if not isinstance(transfers, list):
        raise bad_request("transfers must be a list.")
    return JSONResponse(
        {"objects": [_instructions(call, repo, item, "multipart" in transfers) for item in objects]},
        media_type="application/vnd.git-lfs+json",
    )


def _instructions(call: Call, repo: Repo, item: Any, multipart: bool) -> dict[str, Any]:
    oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(oid, str) or not SHA256.fullmatch(oid) or type(size) is not int or size < 0:
        return {
            "oid": oid,
            "size": size,
            "error": {"code": 422, "message": "oid must be a sha256 and size a number of bytes"},
        }
    if uploaded_entry(call, repo, oid):
        return {"oid": oid, "size": size}
    if shutil.disk_usage(call.store.root).free < size:
        return {"oid": oid, "size": size, "error": {"code": 507, "message": "the embedded Hub's disk is full"}}
    fields = {"uid": repo.uid, "oid": oid, "size": str(size)}
    verify = {"href": _signed_url(call, action="verify", **fields)}
    if not multipart or size < call.settings.multipart_min_bytes:
        return {
            "oid": oid,
            "size": size,
            "actions": {"upload": {"href": _signed_url(call, action="upload", **fields)}, "verify": verify},
        }
    folder = f"parts-{secrets.token_hex(8)}"
    count = -(-size // call.settings.part_bytes)
    if count > MAX_PARTS:
        return {"oid": oid, "size": size, "error": {"code": 422, "message": f"it has more than {MAX_PARTS} parts"}}
    header = {"chunk_size": str(call.settings.part_bytes)} | {
        str(part): _signed_url(call, action="part", part=str(part), folder=folder, **fields)
        for part in range(1, count + 1)
    }
    complete = _signed_url(call, action="complete", folder=folder, **fields)
    return {"oid": oid, "size": size, "actions": {"upload": {"href": complete, "header": header}, "verify": verify}}


async def receive_upload(call: Call, request: Request, action: str) -> Response:
    """PUT /lfs/upload and /lfs/part: a whole file, or one part of it, streamed to disk."""
    fields = _checked(call, action)
    limit = int(fields["size"]) if action == "upload" else call.settings.part_bytes
    hashed = hashlib.sha256()
    incoming = call.store.blobs.incoming
    with tempfile.NamedTemporaryFile(dir=incoming, delete=False) as file:
        written = Path(file.name)
        try:
            received = 0
            async for chunk in arriving(request, call.settings.idle_seconds):
                received += len(chunk)
                if received > limit:
                    raise Refusal(413, f"This upload is longer than the {limit} bytes that were announced.")
                hashed.update(chunk)
                file.write(chunk)
            await run_in_threadpool(sync_file, file)
            if action == "part":
                folder = incoming / fields["folder"]
                make_private(folder)
                written.replace(folder / f"{int(fields['part'])}-{hashed.hexdigest()}")
            else:
                if hashed.hexdigest() != fields["oid"]:
                    raise bad_request("The bytes received do not have the announced sha256.")
                call.store.blobs.adopt(written, fields["oid"])
                call.store.record_lfs(fields["uid"], fields["oid"])
        except ClientDisconnect:
            raise bad_request("The upload ended early.") from None
        finally:
            written.unlink(missing_ok=True)
    return Response(headers={"ETag": f'"{hashed.hexdigest()}"'})


def complete(call: Call) -> Response:
    """POST /lfs/complete: join the parts that the client names by number and ETag."""
    fields = _checked(call, "complete")
    folder = call.store.blobs.incoming / fields["folder"]
    named = call.json().get("parts")
    count = -(-int(fields["size"]) // call.settings.part_bytes)
    if not isinstance(named, list) or len(named) != count:
        raise bad_request(f"{count} parts were announced.")
    paths = []
    etags = {part.get("partNumber"): str(part.get("etag")).strip('"') for part in named if _is_part(part)}
    for number in range(1, count + 1):
        etag = etags.get(number, "")
        path = folder / f"{number}-{etag}"
        if not SHA256.fullmatch(etag) or not path.exists():
            raise bad_request(f"Part {number} was not received.")
        paths.append(path)
    sha256, _ = call.store.blobs.put((chunk for path in paths for chunk in chunks(path)), expected=fields["oid"])
    call.store.record_lfs(fields["uid"], sha256)
    shutil.rmtree(folder, ignore_errors=True)
    return JSONResponse({})


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("partNumber"), int)


def verify(call: Call) -> Response:
    """POST /lfs/verify: confirm that an upload arrived."""
    fields = _checked(call, "verify")
    path = call.store.blobs.path(fields["oid"])
    if fields["uid"] not in call.store.lfs_holders(fields["oid"]) or path.stat().st_size != int(fields["size"]):
        raise Refusal(404, "This file has not been uploaded.")
    return JSONResponse({})


def lfs_files(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET …/lfs-files: every LFS content in the repo's history, with the path and the commit that brought it."""
    call.require_write(repo)
    found: dict[str, dict[str, Any]] = {}
    for ref, head in sorted(repo.refs.items()):
        for sha, commit in call.store.history(head):
            for path, entry in call.store.tree_of(sha).items():
                if entry.lfs:  # the history runs backwards, so the last to write is the first commit that has it
                    about = {"filename": path, "pushedAt": commit.date, "ref": ref, "size": entry.size}
                    found[entry.sha256] = {"fileOid": entry.sha256, "oid": entry.sha256} | about
    return call.page(sorted(found.values(), key=lambda item: (item["pushedAt"], item["filename"])))


ROUTES = {("GET", "lfs-files"): lfs_files}
ROOT_ROUTES = {("POST", "complete"): complete, ("POST", "verify"): verify}
