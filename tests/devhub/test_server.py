"""Starting and stopping: what is printed, what is not imported, and that no input makes the server fail."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers, get_session
from hypothesis import given, settings
from hypothesis import strategies as st

SERVE = """
import sys
from pathlib import Path
from hubinit.devhub.server import serve
serve(Path(sys.argv[1]), port=0, users={"local": "hf_made-up", "other": "hf_b"})
"""


def test_serving_at_a_terminal(tmp_path):
    """The printed lines work as they are printed, the token is not among them, and Ctrl-C ends it quietly."""
    command = [sys.executable, "-c", SERVE, str(tmp_path / "a hub")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(8)]
        exports = [line.strip() for line in lines if line.startswith("  export ")]
        client = "from huggingface_hub import HfApi; api = HfApi(); print(api.create_repo('x').repo_id, api.whoami()['name'])"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        script = "\n".join([*exports, f'exec {sys.executable} -c "{client}"'])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
        assert done.stdout == "local/x local\n", done.stderr
        token = (tmp_path / "a hub" / "tokens" / "local").read_text()
        assert token not in "".join(lines)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        assert (process.returncode, rest, errors) == (0, "", "")
    finally:
        process.kill()


def test_the_server_imports_no_hub_library():
    """They read the endpoint when they are imported, so whoever starts a server must be able to set it afterwards."""
    code = "import hubinit.devhub.server, sys; print([m for m in ('huggingface_hub', 'datasets', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_network_fence(hub):
    for outside in (("203.0.113.1", 80), ("example.org", 443)):
        with pytest.raises(OSError, match="must not leave loopback"):
            socket.create_connection(outside, timeout=1)
    with pytest.raises(Exception, match="must not leave loopback"):
        get_session().get("http://example.org/")


ROUTES = [
    ("POST", "/api/repos/create"),
    ("DELETE", "/api/repos/delete"),
    ("POST", "/api/repos/move"),
    ("POST", "/api/validate-yaml"),
    ("POST", "/alice/fuzz.git/info/lfs/objects/batch"),
    *(
        ("POST", f"/api/models/alice/fuzz/{end}")
        for end in ("preupload/main", "commit/main", "paths-info/main", "branch/x")
    ),
    *(
        ("POST", f"/api/models/alice/fuzz/{end}")
        for end in ("tag/main", "super-squash/main", "duplicate", "discussions")
    ),
    *(("POST", f"/api/models/alice/fuzz/discussions/1/{end}") for end in ("comment", "title", "status", "merge")),
    *(("POST", f"/api/models/alice/fuzz/user-access-request/{end}") for end in ("grant", "handle")),
    ("PUT", "/api/models/alice/fuzz/settings"),
]
NAMES = (
    *(
        "name",
        "organization",
        "type",
        "visibility",
        "private",
        "fromRepo",
        "toRepo",
        "content",
        "objects",
        "oid",
        "size",
    ),
    *(
        "operation",
        "files",
        "path",
        "sample",
        "parts",
        "partNumber",
        "key",
        "value",
        "summary",
        "encoding",
        "paths",
        "tag",
    ),
    *("transfers", "gitIgnore", "parentCommit", "description"),
    *("startingPoint", "message", "repository", "title", "description", "comment", "status", "user", "gated"),
)
TEXTS = st.sampled_from(["alice/fuzz", "file", "public", "auto"]) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)
LINES = st.fixed_dictionaries({"key": st.sampled_from(["header", "file", "lfsFile", "deletedFile"]), "value": VALUES})


@pytest.fixture(scope="module")
def post(hub):
    """Sends anything to the running server; its repo is there, with one discussion."""
    api = HfApi(token="hf_alice")
    api.create_repo("alice/fuzz")
    api.create_discussion("alice/fuzz", title="first")
    headers = build_hf_headers(token="hf_alice") | {"content-type": "application/json"}
    return lambda method, path, content: get_session().request(
        method, f"{hub.url}{path}", content=content, headers=headers
    )


@settings(max_examples=100, deadline=None)
@given(route=st.sampled_from(ROUTES), body=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
def test_no_body_makes_the_server_fail(post, route, body):
    response = post(*route, json.dumps(body))
    assert response.status_code < 500, response.text


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINES, max_size=4))
def test_no_commit_makes_the_server_fail(post, lines):
    response = post("POST", "/api/models/alice/fuzz/commit/main", "\n".join(json.dumps(line) for line in lines))
    assert response.status_code < 500, response.text
