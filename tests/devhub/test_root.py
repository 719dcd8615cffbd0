"""The folder of the Hub: closed to other users of the machine, and cleared of what killed processes left."""

import json
import os
import subprocess
import sys
import time
from base64 import b64encode

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import get_session

from hubinit.cli.devhub import accounts
from hubinit.devhub.calls import Settings
from hubinit.devhub.server import make_app, running
from hubinit.devhub.store import Store
from hubinit.devhub.users import parse_users
from hubinit.errors import HubError, HubinitError

USERS = {"alice": "hf_alice"}
MULTIPART = Settings(multipart_min_bytes=1000, part_bytes=1000)


def test_files_that_are_not_the_hub_s_stay(tmp_path):
    others = [tmp_path / ".thesis.tmp", tmp_path / "documents" / ".important.tmp"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    Store(tmp_path)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("card", ["pipeline_tag: [1]", "library_name: {a: 1}", f"a: {':'.join(['59'] * 330)}.5"])
def test_an_odd_card_costs_nobody_else_their_list(tmp_path, card):
    with running(tmp_path / "hub", users=USERS) as server:
        api = HfApi(endpoint=server.url, token="hf_alice")
        api.create_repo("alice/odd")
        text = f"---\n{card}\n---\n".encode()
        answer = get_session().post(
            f"{server.url}/api/models/alice/odd/commit/main",
            headers={"Authorization": "Bearer hf_alice", "Content-Type": "application/x-ndjson"},
            content="\n".join(
                json.dumps(line)
                for line in (
                    {"key": "header", "value": {"summary": "odd"}},
                    {
                        "key": "file",
                        "value": {"path": "README.md", "content": b64encode(text).decode(), "encoding": "base64"},
                    },
                )
            ),
        )
        assert answer.status_code in {200, 400}, answer.text
        for query in ("", "?full=true", "?filter=x", "?pipeline_tag=x"):
            assert get_session().get(f"{server.url}/api/models{query}").status_code == 200


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(root):
    return {path.relative_to(root).as_posix() for path in [root, *root.rglob("*")] if path.stat().st_mode & 0o077}


def test_nobody_else_can_read_what_is_private(tmp_path):
    root = tmp_path / "hub"
    with running(root, users=USERS, settings=MULTIPART) as server:
        api = HfApi(endpoint=server.url, token="hf_alice")
        api.create_repo("alice/x", private=True)
        for content, name in ((b"text", "a.txt"), (b"\0short", "b.bin"), (b"\0" * 2500, "c.bin")):
            api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="alice/x")
        api.create_discussion("alice/x", title="private")
        (server.store.blobs.incoming / "parts-0").mkdir(mode=0o700)
    assert open_to_others(root) == set()


def test_a_folder_of_an_earlier_version_is_closed(tmp_path):
    for name in ("blobs", "commits", "repos", "lfs", "tokens"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock").touch()
    tmp_path.chmod(0o755)
    Store(tmp_path)
    assert open_to_others(tmp_path) == {"."}, "only the folder that was given keeps its permissions"


LEFT = ["blobs/incoming/tmp123", ".secret.1.2.tmp", "repos/model/a/.x.json.7.8.tmp", "commits/ab/.ab.1.1.tmp"]
HOLD = """
import sys, time
from pathlib import Path
from hubinit.devhub.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def leave(root):
    for name in LEFT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def left(root):
    return [name for name in LEFT if (root / name).exists()]


def test_what_killed_processes_left_is_removed_when_nobody_else_is_there(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "ready\n"
        leave(tmp_path)
        make_app(tmp_path, USERS).store.close()
        assert left(tmp_path) == LEFT, "they may be the other process's"
    finally:
        holder.kill()
        holder.communicate()
    first = make_app(tmp_path, USERS)
    assert left(tmp_path) == []
    leave(tmp_path)
    make_app(tmp_path, USERS).store.close()
    assert left(tmp_path) == LEFT, "the first is still there"
    first.store.close()


def test_parts_stay_as_long_as_their_addresses(tmp_path):
    incoming = tmp_path / "blobs" / "incoming"
    fresh, old = incoming / "parts-1", incoming / "parts-2"
    for folder in (fresh, old):
        folder.mkdir(parents=True)
        (folder / "1-x").touch()
    past = time.time() - Settings().upload_seconds - 60
    os.utime(old, (past, past))
    make_app(tmp_path, USERS).store.close()
    assert (fresh.exists(), old.exists()) == (True, False)


def test_users_come_from_a_file_or_the_environment(tmp_path, monkeypatch, capsys):
    file = tmp_path / "users"
    file.write_text("# ours\nalice=hf_a\n\nbob\n")
    file.chmod(0o600)
    monkeypatch.setenv("HUBINIT_HUB_USERS", "dave=hf_d erin")
    assert accounts([], None) == {"dave": "hf_d", "erin": None}
    assert accounts(["carol"], file) == {"alice": "hf_a", "bob": None, "carol": None}
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    accounts([], file)
    assert f"chmod 600 {file}" in capsys.readouterr().err


def test_tokens_that_others_would_see_are_refused(tmp_path):
    with pytest.raises(HubinitError, match="takes a name only") as caught:
        accounts(["alice:hf_secret"], None)
    assert "hf_secret" not in str(caught.value)
    with pytest.raises(HubError, match="named twice"):
        parse_users("a=1 a=2")
    with pytest.raises(HubError, match="NAME=TOKEN"):
        make_app(tmp_path, parse_users("a="))


def test_a_made_token_stays(tmp_path):
    first = make_app(tmp_path, {"alice": None, "bob": "hf_b"})
    assert make_app(tmp_path, {"alice": None}).users["alice"] == first.users["alice"] != ""
    assert make_app(tmp_path, {"bob": None}).users == {"bob": "hf_b"}
