"""Publishing later: in order, once, however often it is interrupted; kill -9 of real processes included."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubinit.errors import HubError
from hubinit.hub import outbox as box
from hubinit.hub.manifest import content_hash
from hubinit.hub.outbox import queue, queue_rows, sync, waiting
from hubinit.hub.publication import of_run
from hubinit.hub.pull import pull
from hubinit.hub.send import send
from hubinit.hub.tables import LEADERBOARD, publish, read
from tests.hub.builders import run, run_folder


def filled(outbox: Path, tmp_path: Path, api, name: str, runs: int = 2) -> list[str]:
    """Queues start points, trained adapters and leaderboard rows of a few runs; returns the adapter repos."""
    repos = []
    for seed in range(runs):
        result = run(seed=seed, model=f"alice/{name}")
        for publication in of_run(api, result, run_folder(tmp_path / name / str(seed), scale=seed + 1.0), "alice"):
            queue(outbox, publication)
            repos.append(publication.repo_id)
        queue_rows(outbox, LEADERBOARD, [result], f"alice/{name}-board")
    return repos


def published(api, repo_id: str, repo_type: str = "model") -> list[str]:
    """Titles of the commits that hubinit made."""
    return [c.title for c in api.list_repo_commits(repo_id, repo_type=repo_type) if "[" in c.title]


def test_everything_is_sent_in_order_and_the_outbox_is_empty(api, tmp_path):
    outbox = tmp_path / "outbox"
    repos = filled(outbox, tmp_path, api, "in-order")
    assert len(waiting(outbox)) == 6
    sent = [repo.repo_id for repo in sync(api, outbox)]
    assert sent == [*repos[:2], "alice/in-order-board", *repos[2:], "alice/in-order-board"]
    assert waiting(outbox) == []
    for repo in repos:
        pull(api, repo)
        assert len(published(api, repo)) == 1
    assert len(read(api, LEADERBOARD, "alice/in-order-board")) == 2
    assert list(sync(api, outbox)) == []


def test_the_same_publication_is_queued_once(api, tmp_path):
    filled(tmp_path / "outbox", tmp_path, api, "once")
    filled(tmp_path / "outbox", tmp_path, api, "once")
    assert len(waiting(tmp_path / "outbox")) == 6


def test_the_outbox_is_private_and_holds_no_token(api, tmp_path):
    filled(tmp_path / "outbox", tmp_path, api, "secretless")
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0
    content = b"".join(p.read_bytes() for p in (tmp_path / "outbox").rglob("*") if p.is_file())
    assert b"hf_alice" not in content


def test_one_that_is_refused_stops_the_queue_and_says_where_it_is(api, tmp_path):
    outbox = tmp_path / "outbox"
    [_, trained] = of_run(api, run(seed=51), run_folder(tmp_path / "run"), "bob")
    first = queue(outbox, trained)
    queue_rows(outbox, LEADERBOARD, [run()], "alice/behind")
    with pytest.raises(HubError, match="2 publications keep waiting") as caught:
        list(sync(api, outbox))
    assert str(first) in str(caught.value)
    assert len(waiting(outbox)) == 2


@pytest.mark.parametrize("name", ["files/results.json", "entry.json"])
def test_a_damaged_entry_is_not_sent_and_blocks_only_itself(api, tmp_path, name):
    outbox, board = tmp_path / "outbox", f"alice/damaged-{name[0]}"
    path = queue_rows(outbox, LEADERBOARD, [run()], board)
    (path / name).write_text("[]")
    again = queue_rows(outbox, LEADERBOARD, [run(seed=1)], f"{board}-behind")
    assert again != path
    with pytest.raises(
        HubError, match=r"(damaged|cannot be read); delete it and publish again\. Everything else was sent"
    ):
        list(sync(api, outbox))
    assert not api.repo_exists(board, repo_type="dataset")
    assert len(read(api, LEADERBOARD, f"{board}-behind")) == 1
    assert waiting(outbox) == [path]


def test_queueing_reads_nothing_of_what_waits(api, tmp_path, monkeypatch):
    outbox = tmp_path / "outbox"
    [start, trained] = of_run(api, run(seed=53), run_folder(tmp_path / "run"), "alice")
    queue(outbox, start)
    hashed = []
    monkeypatch.setattr(box, "content_hash", lambda content: hashed.append(content) or content_hash(content))
    queue(outbox, trained)
    assert queue(outbox, trained) == waiting(outbox)[1]
    assert not [content for content in hashed if isinstance(content, Path) and outbox in content.parents]


def test_a_queued_push_replaces_another_start_only_when_it_was_told_to(api, tmp_path):
    [start, _] = of_run(api, run(seed=54), run_folder(tmp_path / "a"), "alice")
    [other, _] = of_run(api, run(seed=54), run_folder(tmp_path / "b", scale=2.0), "alice")
    send(api, start)
    queue(tmp_path / "outbox", other, replace=False)
    with pytest.raises(HubError, match="another start point"):
        list(sync(api, tmp_path / "outbox"))


def test_a_commit_made_before_an_interruption_is_not_made_again_even_if_the_repo_went_on(api, tmp_path, monkeypatch):
    outbox = tmp_path / "outbox"
    [_, old] = of_run(api, run(seed=52), run_folder(tmp_path / "old"), "alice")
    queue(outbox, old)
    monkeypatch.setattr(box, "_remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(sync(api, outbox))
    monkeypatch.undo()
    api.upload_file(path_or_fileobj=b"# later\n", path_in_repo="README.md", repo_id=old.repo_id)
    assert len(list(sync(api, outbox))) == 1
    assert waiting(outbox) == []
    assert Path(api.hf_hub_download(old.repo_id, "README.md")).read_text() == "# later\n"
    assert len(published(api, old.repo_id)) == 1


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from huggingface_hub import HfApi
from hubinit.hub.outbox import sync, waiting

outbox, chance, kills = Path(sys.argv[1]), random.Random(0), 0
while waiting(outbox) and kills < 50:
    child = os.fork()  # after the imports, so that every kill falls into the sending
    if not child:
        for _ in sync(HfApi(), outbox):
            pass
        os._exit(0)
    time.sleep(chance.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(kills)
"""


def test_kill_9_of_the_client_at_50_random_moments_loses_and_doubles_nothing(api, tmp_path):
    outbox = tmp_path / "outbox"
    repos = filled(outbox, tmp_path, api, "killed", runs=5)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, outbox], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12, "the outbox was empty too soon for the kills to mean anything"
    list(sync(api, outbox))
    for repo in repos:
        pull(api, repo)
        assert len(published(api, repo)) == 1
    assert len(read(api, LEADERBOARD, "alice/killed-board")) == 5
    assert len(published(api, "alice/killed-board", "dataset")) == 5
    assert "hf_alice" not in done.stdout + done.stderr


MORTAL_HUB = """
import os, random, signal, sys, time
from pathlib import Path
from hubinit.devhub.server import bind, running

listener, chance = bind(0), random.Random(0)
print(listener.getsockname()[1], flush=True)
for life in range(51):
    child = os.fork()  # connections made while nobody lives wait at the socket
    if not child:
        with running(Path(sys.argv[1]), users={"alice": "hf_alice"}, listener=listener):
            time.sleep(600)
    if life == 50:
        print("lives on", flush=True)
        sys.stdin.read()
    time.sleep(chance.uniform(0.1, 0.5))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_kill_9_of_the_hub_at_50_random_moments_loses_and_doubles_nothing(tmp_path, monkeypatch):
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(seconds / 10))  # waits between tries
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", MORTAL_HUB, str(tmp_path / "hub")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mortal:
        api = HfApi(endpoint=f"http://127.0.0.1:{mortal.stdout.readline().strip()}", token="hf_alice")
        outbox = tmp_path / "outbox"
        dying = threading.Thread(target=mortal.stdout.readline, daemon=True)  # ends when the last Hub lives on
        dying.start()
        repos: set[str] = set()
        runs = 0
        while dying.is_alive() or waiting(outbox):  # there is always something to send while Hubs die
            if not waiting(outbox):
                runs += 1
                repos |= set(filled(outbox, tmp_path, api, "mortal", runs))
            with suppress(HubError):
                list(sync(api, outbox))
        for repo in repos:
            pull(api, repo)
            assert len(published(api, repo)) == 1
        assert len(read(api, LEADERBOARD, "alice/mortal-board")) == runs
        assert len(published(api, "alice/mortal-board", "dataset")) == runs
        mortal.stdin.close()


def test_rows_queued_and_rows_published_meanwhile_are_merged(api, tmp_path):
    queue_rows(tmp_path / "outbox", LEADERBOARD, [run(seed=1)], "alice/meanwhile")
    publish(api, LEADERBOARD, [run(seed=2)], "alice/meanwhile")
    list(sync(api, tmp_path / "outbox"))
    assert sorted(read(api, LEADERBOARD, "alice/meanwhile")["seed"]) == [1, 2]
