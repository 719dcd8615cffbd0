"""Large files through the real client: basic and multipart uploads, signatures, and who may use which content."""

import io
import os
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers, get_session

from hubinit.devhub.calls import Settings
from hubinit.devhub.server import running

bob = HfApi(token="hf_bob")


@pytest.fixture
def small_parts(hub):
    """The same server, but any file of 8 MiB or more goes in parts of 5 MiB."""
    before = hub.app.settings
    hub.app.settings = Settings(multipart_min_bytes=8 << 20, part_bytes=5 << 20)
    yield hub
    hub.app.settings = before


def batch(hub, repo, *objects, token="hf_alice"):
    response = get_session().post(
        f"{hub.url}/{repo}.git/info/lfs/objects/batch",
        json={
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": list(objects),
            "hash_algo": "sha256",
        },
        headers=build_hf_headers(token=token),
    )
    return response.json()["objects"]


@pytest.mark.parametrize("as_file_object", [False, True])
def test_twelve_megabytes_in_parts(small_parts, api, tmp_path, as_file_object):
    content = os.urandom(12 << 20)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    api.create_repo("alice/parts", exist_ok=True)
    source = io.BytesIO(content) if as_file_object else path
    api.upload_file(path_or_fileobj=source, path_in_repo=path.name, repo_id="alice/parts")
    assert Path(api.hf_hub_download("alice/parts", path.name)).read_bytes() == content
    assert list(small_parts.store.blobs.incoming.iterdir()) == []


def test_parts_that_do_not_fit_are_refused(small_parts, api):
    from hashlib import sha256

    api.create_repo("alice/parts", exist_ok=True)
    content = os.urandom(9 << 20)
    (item,) = batch(small_parts, "alice/parts", {"oid": sha256(content).hexdigest(), "size": len(content)})
    upload = item["actions"]["upload"]
    session = get_session()
    sent = [content[: 5 << 20], b"wrong"]
    etags = [
        session.put(upload["header"][str(n)], content=part).headers["etag"] for n, part in enumerate(sent, start=1)
    ]
    parts = [{"partNumber": n, "etag": etag} for n, etag in enumerate(etags, start=1)]
    assert session.post(upload["href"], json={"parts": parts[:1]}).status_code == 400
    assert session.post(upload["href"], json={"parts": parts}).status_code == 400
    assert session.put(upload["header"]["1"], content=b"x" * (6 << 20)).status_code == 413
    etag = session.put(upload["header"]["2"], content=content[5 << 20 :]).headers["etag"]
    assert session.post(upload["href"], json={"parts": [parts[0], {"partNumber": 2, "etag": etag}]}).status_code == 200


def test_upload_is_not_repeated(hub, api):
    api.create_repo("alice/twice")
    content = os.urandom(2000)
    api.upload_file(path_or_fileobj=content, path_in_repo="a.bin", repo_id="alice/twice")
    from hashlib import sha256

    (item,) = batch(hub, "alice/twice", {"oid": sha256(content).hexdigest(), "size": len(content)})
    assert "actions" not in item


def test_upload_addresses_are_signed_and_expire(hub, api, monkeypatch):
    from hashlib import sha256

    api.create_repo("alice/signed")
    content = b"\0signed"
    announced = {"oid": sha256(content).hexdigest(), "size": len(content)}
    (item,) = batch(hub, "alice/signed", announced)
    href = item["actions"]["upload"]["href"]
    session = get_session()
    assert session.put(href, content=b"\0other!").status_code == 400
    assert session.put(href, content=content + b"longer").status_code == 413
    assert session.put(href.replace("size=7", "size=9999"), content=content).status_code == 403
    assert session.put(href.split("?")[0], content=content).status_code == 403
    assert session.post(item["actions"]["verify"]["href"]).status_code == 404
    expires = int(parse_qs(urlsplit(href).query)["expires"][0])
    real = time.time
    monkeypatch.setattr("hubinit.devhub.lfs.time.time", lambda: expires + 1.0)
    assert session.put(href, content=content).status_code == 403
    monkeypatch.setattr("hubinit.devhub.lfs.time.time", real)
    assert session.put(href, content=content).status_code == 200
    assert session.post(item["actions"]["verify"]["href"]).status_code == 200


def test_a_hash_does_not_open_another_ones_file(hub, api):
    """Bob knows the sha256 of a file in alice's private repo; neither the batch call nor a commit may give it to him."""
    from hashlib import sha256

    content = b"\0private weights"
    api.create_repo("alice/vault", private=True)
    api.upload_file(path_or_fileobj=content, path_in_repo="w.bin", repo_id="alice/vault")
    bob.create_repo("bob/thief")
    oid = sha256(content).hexdigest()
    (item,) = batch(hub, "bob/thief", {"oid": oid, "size": len(content)}, token="hf_bob")
    assert "actions" in item
    line = (
        f'{{"key": "lfsFile", "value": {{"path": "w.bin", "algo": "sha256", "oid": "{oid}", "size": {len(content)}}}}}'
    )
    response = get_session().post(
        f"{hub.url}/api/models/bob/thief/commit/main",
        content='{"key": "header", "value": {"summary": "take"}}\n' + line,
        headers=build_hf_headers(token="hf_bob") | {"content-type": "application/x-ndjson"},
    )
    assert response.status_code == 400
    assert bob.list_repo_files("bob/thief") == [".gitattributes"]


def test_bad_batches(hub, api):
    api.create_repo("alice/batch")
    assert all(
        "error" in item for item in batch(hub, "alice/batch", {"oid": "../../etc", "size": 1}, {"oid": "0" * 64}, 3)
    )
    (item,) = batch(hub, "alice/batch", {"oid": "0" * 64, "size": 1 << 60})
    assert item["error"]["code"] == 507
    anonymous = get_session().post(f"{hub.url}/alice/batch.git/info/lfs/objects/batch", json={})
    assert anonymous.status_code == 401


def test_leftovers_are_swept(tmp_path):
    with running(tmp_path, users={"carol": "hf_carol"}) as hub:
        incoming = hub.store.blobs.incoming
    for name, age in (("old", 90000), ("new", 10)):
        (incoming / f"parts-{name}").mkdir()
        (incoming / f"parts-{name}" / "1-x").write_bytes(b"x")
        os.utime(incoming / f"parts-{name}", (time.time() - age, time.time() - age))
    with running(tmp_path, users={"carol": "hf_carol"}):
        assert [path.name for path in incoming.iterdir()] == ["parts-new"]


def test_corrupt_upload_raises_in_the_client(hub, api, monkeypatch):
    api.create_repo("alice/corrupt")
    monkeypatch.setattr("huggingface_hub.lfs.UploadInfo.from_bytes", _lying)
    with pytest.raises(RuntimeError, match="Error while uploading"):  # the client's own choice of exception
        api.upload_file(path_or_fileobj=b"\0one", path_in_repo="x.bin", repo_id="alice/corrupt")
    assert api.list_repo_files("alice/corrupt") == [".gitattributes"]


def _lying(data):
    from huggingface_hub.lfs import UploadInfo

    return UploadInfo(sha256=b"\1" * 32, size=len(data), sample=data[:512])
