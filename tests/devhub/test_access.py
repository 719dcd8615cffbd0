"""Gated repos, duplicates, LFS lists: through the real client."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session

bob = HfApi(token="hf_bob")
anonymous = HfApi(token=False)
WEIGHTS = b"\0weights that only gated repos hold"


def status_of(call):
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


@pytest.fixture
def gated(api, request):
    name = f"alice/{request.function.__name__.replace('_', '-')}"
    api.create_repo(name)
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="w.bin", repo_id=name)
    api.upload_file(path_or_fileobj=b"secret text", path_in_repo="s.txt", repo_id=name)
    api.update_repo_settings(name, gated="manual")
    return name


def ask(hub, repo):
    return get_session().post(f"{hub.url}/{repo}/ask-access", headers=build_hf_headers(token="hf_bob")).json()["status"]


def test_access_is_asked_for_and_granted(hub, api, gated):
    for other, status in ((bob, 403), (anonymous, 401)):
        with pytest.raises(GatedRepoError) as caught:
            other.auth_check(gated)
        assert caught.value.response.status_code == status
        assert other.model_info(gated).gated == "manual"
    assert ask(hub, gated) == ask(hub, gated) == "pending"
    (request,) = api.list_pending_access_requests(gated)
    assert (request.username, request.status) == ("bob", "pending")
    assert status_of(lambda: bob.accept_access_request(gated, "bob")) == 403
    api.accept_access_request(gated, "bob")
    bob.auth_check(gated)
    assert Path(bob.hf_hub_download(gated, "w.bin")).read_bytes() == WEIGHTS
    assert status_of(lambda: api.accept_access_request(gated, "bob")) == 400
    assert [item.username for item in api.list_accepted_access_requests(gated)] == ["bob"]
    api.reject_access_request(gated, "bob", rejection_reason="no more")
    assert [item.username for item in api.list_rejected_access_requests(gated)] == ["bob"]
    with pytest.raises(GatedRepoError):
        bob.auth_check(gated)
    api.cancel_access_request(gated, "bob")
    assert [item.username for item in api.list_pending_access_requests(gated)] == ["bob"]


def test_access_is_given_without_being_asked_for(api, gated):
    assert status_of(lambda: api.grant_access(gated, "nobody")) == 404
    assert status_of(lambda: api.accept_access_request(gated, "bob")) == 404
    api.grant_access(gated, "bob")
    assert status_of(lambda: api.grant_access(gated, "bob")) == 400
    bob.auth_check(gated)
    assert status_of(lambda: bob.auth_check(gated, write=True)) == 403
    api.update_repo_settings(gated, gated=False)
    anonymous.auth_check(gated)
    assert status_of(lambda: api.grant_access(gated, "bob")) == 400


def test_automatic_gate(hub, api, gated):
    api.update_repo_settings(gated, gated="auto")
    with pytest.raises(GatedRepoError):
        bob.auth_check(gated)
    assert ask(hub, gated) == "accepted"
    bob.auth_check(gated)


def test_no_way_around_the_gate(hub, api, gated):
    """Neither a duplicate, nor a pull request's diff, nor an LFS hash gives the content away."""
    with pytest.raises(GatedRepoError):
        bob.duplicate_repo(gated, "bob/stolen")
    assert not bob.repo_exists("bob/stolen")
    api.upload_file(path_or_fileobj=b"new text", path_in_repo="s.txt", repo_id=gated, create_pr=True)
    assert api.get_discussion_details(gated, 1).diff
    assert bob.get_discussion_details(gated, 1).diff is None
    sha256 = api.get_paths_info(gated, "w.bin")[0].lfs.sha256
    bob.create_repo("bob/empty", exist_ok=True)
    answer = (
        get_session()
        .post(
            f"{hub.url}/bob/empty.git/info/lfs/objects/batch",
            json={"operation": "upload", "objects": [{"oid": sha256, "size": len(WEIGHTS)}]},
            headers=build_hf_headers(token="hf_bob"),
        )
        .json()
    )
    assert "actions" in answer["objects"][0]


def test_auth_check_of_private(api):
    api.create_repo("alice/checked-private", private=True)
    api.auth_check("alice/checked-private", write=True)
    with pytest.raises(RepositoryNotFoundError):
        bob.auth_check("alice/checked-private")


def test_duplicate(api):
    api.create_repo("alice/original")
    api.upload_file(path_or_fileobj=b"\0weights", path_in_repo="w.bin", repo_id="alice/original")
    url = bob.duplicate_repo("alice/original", "bob/copy")
    assert url.repo_id == "bob/copy"
    assert Path(anonymous.hf_hub_download("bob/copy", "w.bin")).read_bytes() == b"\0weights"
    assert bob.list_repo_commits("bob/copy")[0].title == "Duplicate from alice/original"
    bob.upload_file(path_or_fileobj=b"own", path_in_repo="own.txt", repo_id="bob/copy")
    assert not api.file_exists("alice/original", "own.txt")
    assert status_of(lambda: bob.duplicate_repo("alice/original", "bob/copy")) == 409
    assert bob.duplicate_repo("alice/original", "bob/copy", exist_ok=True).repo_id == "bob/copy"
    assert status_of(lambda: bob.duplicate_repo("alice/original", "alice/copy")) == 403
    assert bob.duplicate_repo("alice/original", private=True).repo_id == "bob/original"
    assert not anonymous.repo_exists("bob/original")


def test_lfs_files(api):
    api.create_repo("alice/large")
    api.upload_file(path_or_fileobj=b"\0one", path_in_repo="a.bin", repo_id="alice/large")
    api.upload_file(path_or_fileobj=b"\0two!", path_in_repo="a.bin", repo_id="alice/large")
    api.delete_file("a.bin", "alice/large")
    files = list(api.list_lfs_files("alice/large"))
    assert [(item.filename, item.size) for item in files] == [("a.bin", 4), ("a.bin", 5)]
    assert files[0].pushed_at < files[1].pushed_at
    assert status_of(lambda: list(bob.list_lfs_files("alice/large"))) == 403
