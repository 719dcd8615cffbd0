"""The faults do what they say, as the real client sees it."""

import contextlib

import pytest
from huggingface_hub.utils import build_hf_headers, get_session

from hubinit.devhub.faults import KINDS, FaultPlan

try:
    from httpx2 import TransportError
except ImportError:  # huggingface_hub before 2
    from httpx import TransportError

REPO = "alice/faulty"


@pytest.fixture(autouse=True)
def repo(api):
    api.create_repo(REPO, exist_ok=True)
    api.upload_file(path_or_fileobj=b"0123456789" * 100, path_in_repo="digits.txt", repo_id=REPO)


def always(faults, kind, **options):
    return faults(FaultPlan(rate=1.0, kinds=(kind,), **options))


def download(hub):
    return get_session().get(f"{hub.url}/{REPO}/resolve/main/digits.txt")


@pytest.mark.parametrize("kind", ["429", "500", "503"])
def test_statuses(hub, faults, kind):
    plan = always(faults, kind, retry_after=7)
    response = download(hub)
    assert response.status_code == int(kind)
    assert response.headers.get("retry-after") == ("7" if kind == "429" else None)
    assert plan.injected == [(kind, f"GET /{REPO}/resolve/main/digits.txt")]


@pytest.mark.parametrize("kind", ["drop", "lost", "cut"])
def test_connections_that_break(hub, faults, kind):
    always(faults, kind)
    with pytest.raises(TransportError):
        download(hub)
    faults(None)
    assert len(download(hub).content) == 1000


def test_truncated_downloads_are_noticed_by_the_client(hub, api, faults, tmp_path):
    always(faults, "truncate", limit=1)
    assert len(download(hub).content) == 500
    always(faults, "truncate")
    with pytest.raises(OSError, match="Consistency check failed"):
        api.hf_hub_download(REPO, "digits.txt", local_dir=tmp_path)


def test_delay(hub, faults):
    import time

    always(faults, "delay", delay_seconds=0.3)
    start = time.monotonic()
    assert download(hub).status_code == 200
    assert time.monotonic() - start >= 0.3


def test_stale_parent_only_on_commits(hub, api, faults):
    always(faults, "stale")
    assert download(hub).status_code == 200
    response = get_session().post(f"{hub.url}/api/models/{REPO}/commit/main", content=b"", headers=build_hf_headers())
    assert response.status_code == 412


@pytest.mark.parametrize(("kind", "done"), [("drop", False), ("500", False), ("lost", True), ("cut", True)])
def test_before_or_after_the_deed(hub, api, faults, kind, done):
    name = f"made-under-{kind}"
    always(faults, kind, routes="^POST /api/repos/create$")
    with contextlib.suppress(TransportError):
        url = f"{hub.url}/api/repos/create"
        get_session().post(url, json={"name": name}, headers=build_hf_headers(token="hf_alice"))
    assert api.repo_exists(f"alice/{name}") is done


COMMIT, DOWNLOAD, OTHER = (
    ("POST", "/api/models/a/b/commit/main"),
    ("GET", "/a/b/resolve/main/x"),
    ("GET", "/api/models/a/b"),
)


def outcome(seed, request, count=200, rate=0.3):
    plan = FaultPlan(seed=seed, rate=rate)
    return [plan.draw(*request) for _ in range(count)]


def test_the_seed_fixes_the_plan():
    assert outcome(1, COMMIT) == outcome(1, COMMIT)
    assert outcome(1, COMMIT) != outcome(2, COMMIT)
    share = sum(kind is not None for kind in outcome(1, COMMIT, 2000)) / 2000
    assert 0.27 < share < 0.33
    with pytest.raises(ValueError, match="unknown kinds"):
        FaultPlan(kinds=("explode",))


@pytest.mark.parametrize(
    ("request_", "kinds"),
    [
        (COMMIT, set(KINDS) - {"truncate"}),
        (DOWNLOAD, set(KINDS) - {"stale"}),
        (OTHER, set(KINDS) - {"stale", "truncate"}),
    ],
)
def test_every_kind_that_applies_comes_once_before_any_comes_again(request_, kinds):
    for seed in range(20):
        dealt = [kind for kind in outcome(seed, request_) if kind]
        rounds = [dealt[at : at + len(kinds)] for at in range(0, len(dealt) - len(kinds), len(kinds))]
        assert rounds and all(set(each) == kinds for each in rounds)


def test_what_befalls_a_commit_does_not_depend_on_the_requests_between():
    plan = FaultPlan(seed=3, rate=0.3)
    mixed = []
    for number in range(50):
        for _ in range(number % 4):
            plan.draw(*OTHER), plan.draw(*DOWNLOAD)
        mixed.append(plan.draw(*COMMIT))
    assert mixed == outcome(3, COMMIT, 50)


def test_a_kind_that_never_applies_is_no_fault():
    plan = FaultPlan(rate=1.0, kinds=("stale",))
    assert [plan.draw(*OTHER), plan.draw(*DOWNLOAD), plan.draw(*COMMIT)] == [None, None, "stale"]
