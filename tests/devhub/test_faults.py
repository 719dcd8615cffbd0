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


def test_the_seed_fixes_the_plan():
    def outcome(seed):
        plan = FaultPlan(seed=seed, rate=0.3)
        return [plan.draw("POST", "/api/models/a/b/commit/main") for _ in range(200)]

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)
    share = sum(kind is not None for kind in outcome(1)) / 200
    assert 0.15 < share < 0.4
    assert {kind for kind in outcome(1) if kind} == set(KINDS) - {"truncate"}
    with pytest.raises(ValueError, match="unknown kinds"):
        FaultPlan(kinds=("explode",))
