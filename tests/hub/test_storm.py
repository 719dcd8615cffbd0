"""Publishing to a Hub where one request in ten fails, in every way a request can fail."""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session

from hubinit.devhub.faults import KINDS, FaultPlan
from hubinit.errors import HubError
from hubinit.hub.manifest import content_hash
from hubinit.hub.publication import of_adapter, of_run
from hubinit.hub.pull import pull
from hubinit.hub.send import push, send
from hubinit.hub.tables import LEADERBOARD, publish, read
from hubinit.leaderboard.table import merge, table
from hubinit.records import RunResult
from tests.hub.builders import run, run_folder

COMPLETE = {"README.md", "hubinit.json", "adapter_config.json", "adapter_model.safetensors"}


def persist(command: Callable[[], object], said: list[str]) -> int:
    """Runs a command again after a clear error, as a user would; returns how often it failed.

    A command needs several requests, each of which may fail: now and then five tries of its own are not enough.
    """
    for failures in range(5):
        try:
            command()
            return failures
        except HubError as error:
            said.append(str(error))
    raise AssertionError(f"it never got through: {said[-1]}")


@pytest.fixture
def quick(monkeypatch):
    """Waits are a tenth as long, the Hub client's own included."""
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(seconds / 10))


class Onlooker(threading.Thread):
    """Someone without a token who keeps looking at what is public, and notes every repo that lacks a file."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self.url, self.prefix = url, prefix
        self.half: set[str] = set()
        self.looks = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            try:
                answer = get_session().get(f"{self.url}/api/models?author=alice&full=true&limit=1000", timeout=30)
                repos = answer.json() if answer.status_code == 200 else []
            except Exception:
                continue
            for repo in repos:
                if self.prefix in repo["id"] and not {s["rfilename"] for s in repo["siblings"]} >= COMPLETE:
                    self.half.add(repo["id"])
            self.looks += 1


@pytest.mark.slow
def test_200_publications_end_complete_and_no_half_repo_is_ever_visible(hub, api, faults, tmp_path, quick):
    folders = [run_folder(tmp_path / str(scale), scale) / "adapter" for scale in range(8)]
    wanted = [of_adapter(run(seed=s), folders[s % 8], "trained", f"alice/storm-{s}") for s in range(200)]
    plan = faults(FaultPlan(seed=1, rate=0.1, retry_after=0))
    onlooker = Onlooker(hub.url, "storm-")
    onlooker.start()
    said: list[str] = []

    with ThreadPoolExecutor(8) as pool:
        failed = list(pool.map(lambda wish: persist(lambda: send(api, wish, private=False), said), wanted))
    onlooker.stopped.set()
    onlooker.join()
    faults(None)
    # Each commit is drawn from the plan's own deck of commits, and 200 draws reach all of its eight kinds. Publishing downloads
    # nothing, so `truncate` has its turn below.
    met = {kind for kind, request in plan.injected if "/commit/" in request}
    assert met == set(KINDS) - {"truncate"}, "commits met every kind of fault, `stale` (412) among them"
    assert not [message for message in said if "\n" in message or "hf_alice" in message]
    assert len(plan.injected) > 100
    assert sum(failed) < 20, "most faults are ridden out without the user noticing"
    assert onlooker.looks > 5
    assert not onlooker.half
    for publication in wanted:
        info = api.model_info(publication.repo_id, files_metadata=True)
        assert not info.private
        assert {s.rfilename for s in info.siblings} - {".gitattributes"} == publication.files.keys()
        assert [c.title for c in api.list_repo_commits(publication.repo_id)].count(publication.message) == 1
    for publication in wanted[::20]:  # and byte by byte
        for name, content in publication.files.items():
            local = Path(api.hf_hub_download(publication.repo_id, name))
            assert content_hash(local) == content_hash(content)


def test_the_leaderboard_survives_the_same_storm(api, faults, quick):
    results = [run(seed=seed, value=seed / 100) for seed in range(12)]
    faults(FaultPlan(seed=2, rate=0.1, retry_after=0))
    said: list[str] = []

    def add(result: RunResult) -> int:
        return persist(lambda: publish(api, LEADERBOARD, [result], "alice/storm-board"), said)

    with ThreadPoolExecutor(4) as pool:
        failed = list(pool.map(add, results))
    assert sum(failed) <= 3, "most faults are ridden out without the user noticing"
    faults(None)
    assert read(api, LEADERBOARD, "alice/storm-board").equals(merge(table([]), table(results)))
    titles = [c.title for c in api.list_repo_commits("alice/storm-board", repo_type="dataset")]
    assert len([title for title in titles if title.startswith("Add")]) == 12


@pytest.mark.parametrize("kind", ["lost", "cut"])
def test_a_lost_answer_to_a_commit_or_a_pull_request_doubles_neither(api, faults, tmp_path, quick, kind):
    folder = run_folder(tmp_path / "a") / "adapter"
    (tmp_path / "a" / "result.json").write_text(run().model_dump_json())
    repo = f"alice/answer-{kind}"
    plan = faults(FaultPlan(rate=1.0, kinds=(kind,), routes="/commit/", limit=1))
    push(api, folder, repo, public=True)
    assert len(plan.injected) == 1
    assert len(api.list_repo_commits(repo)) == 2
    bob = HfApi(token="hf_bob")
    other = run_folder(tmp_path / "b", scale=5.0) / "adapter"
    (tmp_path / "b" / "result.json").write_text(run().model_dump_json())
    plan = faults(FaultPlan(rate=1.0, kinds=(kind,), routes="/commit/", limit=1))
    assert push(bob, other, repo, create_pr=True).pull_request
    assert len(plan.injected) == 1
    faults(None)
    assert len(list(api.get_repo_discussions(repo))) == 1


def test_downloads_through_the_storm_are_right_or_refused(api, faults, tmp_path, quick):
    [start, _] = of_run(api, run(seed=61), run_folder(tmp_path), "alice")
    send(api, start)
    plan = faults(FaultPlan(seed=3, rate=0.5, retry_after=0, kinds=("truncate", "cut", "503")))
    cache = Path(constants.HF_HUB_CACHE) / f"models--{start.repo_id.replace('/', '--')}"
    for attempt in range(10):
        try:
            pulled = pull(api, start.repo_id, out=tmp_path / f"out-{attempt}")
        except HubError:
            continue
        for name, digest in pulled.manifest.files.items():
            assert content_hash(pulled.folder / name) == digest
        shutil.rmtree(cache, ignore_errors=True)
    assert "truncate" in {kind for kind, _ in plan.injected}
    faults(None)
    pull(api, start.repo_id)
