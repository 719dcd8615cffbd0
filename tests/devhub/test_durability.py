"""A killed server or writer loses nothing that was acknowledged and leaves no half commit."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hubinit.devhub.server import bind
from hubinit.devhub.store import Store
from hubinit.errors import HubError

REPO = "carol/durable"
WRITER = """
import sys
from pathlib import Path
from hubinit.devhub.store import Store
store, name = Store(Path(sys.argv[1])), sys.argv[2]
for number in range(int(sys.argv[3])):
    store.commit("model", "carol/durable", {f"{name}-{number}.txt": name.encode()}, message=f"{name} {number}", author="carol")
"""
SERVER = """
import sys
from pathlib import Path
from hubinit.devhub.server import serve
serve(Path(sys.argv[1]), port=int(sys.argv[2]), users={"carol": "hf_carol"})
"""


def check(root, acknowledged=()):
    """Every commit is whole, every content has its hash, and what was acknowledged is in the history. Returns the titles."""
    store = Store(root)
    repo = store.load("model", REPO)
    history = dict(store.history(repo.head))
    assert set(acknowledged) <= set(history)
    for sha in history:
        for entry in store.tree_of(sha).values():
            content = store.blobs.path(entry.sha256).read_bytes()
            assert (sha256(content).hexdigest(), len(content)) == (entry.sha256, entry.size)
    return [commit.title for commit in history.values()]


@pytest.fixture
def start_server():
    """Starts servers of their own; none outlives the test."""
    started = []

    def start(root, port):
        started.append(_start(root, port))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _start(root, port):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(root), str(port)], stdout=subprocess.PIPE, text=True)
    assert "Embedded Hub at" in process.stdout.readline()
    return process


def test_kill_nine_in_the_middle_of_commits(tmp_path, start_server):
    listener = bind(0)
    port = listener.getsockname()[1]
    listener.close()
    api = HfApi(endpoint=f"http://127.0.0.1:{port}", token="hf_carol")
    process = start_server(tmp_path, port)
    api.create_repo(REPO)
    acknowledged = {}
    chance = random.Random(0)
    for life in range(4):
        stop = threading.Event()

        def publish(thread, life=life, stop=stop):
            number = 0
            while not stop.is_set():
                name = f"{life}-{thread}-{number}"
                files = [
                    CommitOperationAdd(f"{name}.txt", name.encode()),
                    CommitOperationAdd(f"{name}.bin", b"\0" + name.encode()),
                ]
                try:
                    acknowledged[api.create_commit(REPO, files, commit_message=name, num_threads=1).oid] = name
                except Exception:  # the connection died in one of many ways
                    return
                number += 1

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        stop.set()
        check(tmp_path, list(acknowledged))
        process = start_server(tmp_path, port)
        for thread in threads:
            thread.join()  # the client repeats some calls by itself, so it may yet succeed
        titles = check(tmp_path, acknowledged)
        assert len(titles) == len(set(titles))
    assert len(acknowledged) > 10
    for oid, name in acknowledged.items():
        assert Store(tmp_path).tree_of(oid)[f"{name}.bin"].lfs


def test_death_before_each_step_of_a_commit(tmp_path):
    """The writer dies just before its first, second, … rename: the head is the old commit, until it is the new one."""
    store = Store(tmp_path)
    store.create_repo("model", REPO)
    old = store.load("model", REPO).head
    survived = False
    for step in range(1, 30):
        child = os.fork()
        if child == 0:
            _die_before_rename(step)
            Store(tmp_path).commit(
                "model",
                REPO,
                {"a.txt": b"a%d" % step, "b.bin": b"\0%d" % step},
                message="new",
                author="carol",
                delete=[".gitattributes"],
            )
            os._exit(0)
        _, status = os.waitpid(child, 0)
        titles = check(tmp_path)
        if os.waitstatus_to_exitcode(status) == 0:
            survived = True
            assert titles == ["new", "initial commit"]
            assert set(store.tree_of(store.load("model", REPO).head)) == {"a.txt", "b.bin"}
            break
        assert store.load("model", REPO).head == old
    assert survived
    assert step == 6  # two files, tree, commit, repo


def _die_before_rename(step):
    real, count = Path.replace, 0

    def replace(self, target):
        nonlocal count
        count += 1
        if count == step:
            os._exit(9)
        return real(self, target)

    Path.replace = replace


def test_two_processes_write_to_one_root(tmp_path):
    Store(tmp_path).create_repo("model", REPO)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, "25"]) for name in ("left", "right")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    titles = check(tmp_path)
    assert sorted(titles) == sorted(
        ["initial commit", *(f"{name} {n}" for name in ("left", "right") for n in range(25))]
    )
    store = Store(tmp_path)
    assert len(store.tree_of(store.load("model", REPO).head)) == 51


def test_a_damaged_repo_hides_only_itself(tmp_path):
    store = Store(tmp_path)
    store.create_repo("model", REPO)
    store.create_repo("model", "carol/whole")
    store.repo_path("model", REPO).write_text('{"half": ')
    assert [repo.id for repo in store.repos("model")] == ["carol/whole"]
    with pytest.raises(HubError, match="damaged; restore or delete it"):
        store.load("model", REPO)


def test_full_disk_is_said(hub, api, monkeypatch):
    api.create_repo("alice/full-disk")
    head = api.model_info("alice/full-disk").sha

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hubinit.devhub.blobs.sync_file", no_space)
    with pytest.raises(HfHubHTTPError, match="disk is full"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="alice/full-disk")
    monkeypatch.undo()
    assert api.model_info("alice/full-disk").sha == head
    assert list(hub.store.blobs.incoming.iterdir()) == []
