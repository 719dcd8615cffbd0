"""What must not get in: odd paths, foreign hosts, oversized bodies, other binds."""

import socket

import pytest
from huggingface_hub.utils import build_hf_headers, get_session
from hypothesis import given
from hypothesis import strategies as st

from hubinit.devhub.calls import Settings
from hubinit.devhub.names import check_path, check_ref, check_repo_id
from hubinit.devhub.refusals import Refusal
from hubinit.devhub.server import bind, running
from hubinit.errors import HubError

BAD_PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "./a",
    "a\\..\\b",
    "a\0b",
    "a\nb",
    ".git/config",
    "a/.GIT/x",
    "x" * 300,
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_in_commits(hub, api, path):
    import base64
    import json

    api.create_repo("alice/paths", exist_ok=True)
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": path, "content": base64.b64encode(b"x").decode(), "encoding": "base64"}},
    ]
    response = get_session().post(
        f"{hub.url}/api/models/alice/paths/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers=build_hf_headers(token="hf_alice") | {"content-type": "application/x-ndjson"},
    )
    assert response.status_code == 400
    assert api.list_repo_files("alice/paths") == [".gitattributes"]


def raw_get(hub, path, host=None, extra=""):
    """A request that no client library has tidied up."""
    address = hub.url.removeprefix("http://")
    with socket.create_connection(address.split(":")) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host or address}\r\n{extra}Connection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(
    "path",
    [
        "/alice/paths/resolve/main/../../../users.json",
        "/alice/paths/resolve/main/%2e%2e/%2e%2e/users.json",
        "/alice/paths/resolve/..%2f..%2f..%2fsecret/x",
        "/../../secret",
        "/..%2f..%2fsecret/x/resolve/main/y",
        "/api/models/..%2F..%2F/..",
        "/alice/paths/resolve/main/%00",
        "/lfs/upload?uid=..&oid=x",
        "//",
        "/%ff%fe",
        "/é/é",
        "/api/models?cursor=" + "9" * 30,
    ],
)
def test_no_path_leaves_the_root(hub, api, path):
    api.create_repo("alice/paths", exist_ok=True)
    status, answer = raw_get(hub, path)
    assert 400 <= status < 500, answer


FOREIGN = [
    "evil.example",
    "evil.example:80",
    "127.0.0.1.evil.example",
    "localhost.evil:1",
    "x@127.0.0.1",
    '127.0.0.1:8"><',
]


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_host_names_are_refused(hub, host):
    status, _ = raw_get(hub, "/api/models", host)
    assert status == 421


def test_loopback_names_are_served(hub):
    port = hub.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
        assert raw_get(hub, "/api/models", host)[0] == 200


def test_wrong_tokens_are_refused_even_for_public_content(hub):
    for header in ("Bearer hf_nobody", "Bearer ", "Basic hf_alice", "Bearer hf_alicX"):
        assert raw_get(hub, "/api/models", extra=f"Authorization: {header}\r\n")[0] == 401


def test_long_bodies_are_refused(tmp_path):
    limits = Settings(json_max_bytes=1000, commit_max_bytes=2000)
    with running(tmp_path, users={"carol": "hf_carol"}, settings=limits) as small:
        headers = build_hf_headers(token="hf_carol") | {"content-type": "application/json"}
        session = get_session()
        assert session.post(f"{small.url}/api/repos/create", json={"name": "x"}, headers=headers).status_code == 200
        create = session.post(f"{small.url}/api/repos/create", content=b" " * 1001, headers=headers)
        commit = session.post(f"{small.url}/api/models/carol/x/commit/main", content=b" " * 2001, headers=headers)
        assert (create.status_code, commit.status_code) == (413, 413)


def test_files_of_others_are_not_run_by_browsers(hub, api):
    api.create_repo("alice/page", exist_ok=True)
    api.upload_file(path_or_fileobj=b"<script>alert(1)</script>", path_in_repo="x.html", repo_id="alice/page")
    response = get_session().get(f"{hub.url}/alice/page/resolve/main/x.html")
    assert response.headers["content-type"].startswith("text/plain")
    assert response.headers["x-content-type-options"] == "nosniff"


def test_port_in_use_is_one_sentence(hub, tmp_path):
    port = int(hub.url.rpartition(":")[2])
    with pytest.raises(HubError, match=f"cannot use port {port}") as caught, running(tmp_path, port=port):
        pass
    assert "\n" not in str(caught.value)


def test_only_loopback_is_bound(tmp_path):
    assert bind(0).getsockname()[0] == "127.0.0.1"
    wide = socket.socket()
    wide.bind(("", 0))
    with pytest.raises(HubError, match="this machine only"), running(tmp_path, users={"a": "t"}, listener=wide):
        pass
    wide.close()


def test_default_user_has_a_private_token_that_stays(tmp_path):
    with running(tmp_path) as first:
        token = first.token
        assert (first.user, len(token) > 30) == ("local", True)
    assert (tmp_path / "tokens" / "local").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    with running(tmp_path) as second:
        assert second.token == token


@pytest.mark.parametrize("users", [{"a": ""}, {"a": "t\nx"}, {"a": "t", "b": "t"}, {"../a": "t"}, {"api": "t"}])
def test_bad_users(tmp_path, users):
    with pytest.raises(HubError), running(tmp_path, users=users):
        pass


@given(st.text(max_size=40))
def test_names_that_pass_stay_inside_a_folder(text):
    """Whatever a check lets through is a relative path that does not climb."""
    from pathlib import Path

    for check in (check_path, check_ref, check_repo_id):
        try:
            name = check(text)
        except Refusal:
            continue
        assert (Path("/root") / name).resolve().is_relative_to("/root")
        assert (Path("/root") / name).resolve() != Path("/root")
