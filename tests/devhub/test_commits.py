"""Commits, branches, tags and history through the real client."""

import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session

bob = HfApi(token="hf_bob")
NDJSON = build_hf_headers(token="hf_alice") | {"content-type": "application/x-ndjson"}


@pytest.fixture
def repo(api, request):
    name = f"alice/{request.function.__name__.replace('_', '-')}"
    api.create_repo(name, exist_ok=True)
    return name


def add(api, repo, **options):
    files = options.pop("files", {"a.txt": b"a"})
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo, operations, commit_message=options.pop("message", "add"), **options)


def content(api, repo, path, **options):
    return Path(api.hf_hub_download(repo, path, **options)).read_bytes()


def test_add_change_copy_delete(api, repo):
    add(api, repo, files={"a.txt": b"a", "big.bin": b"\0" * 5000, "d/1.txt": b"1", "d/2.txt": b"2", "e/3.txt": b"3"})
    info = api.create_commit(
        repo,
        [
            CommitOperationAdd("a.txt", b"changed"),
            CommitOperationCopy("big.bin", "copy.bin"),
            CommitOperationCopy("e/3.txt", "copy.txt"),
            CommitOperationDelete("d/"),
            CommitOperationDelete("e/3.txt"),
        ],
        commit_message="change",
        commit_description="several things",
    )
    assert info.commit_url.endswith(f"/commit/{info.oid}")
    assert sorted(api.list_repo_files(repo)) == [".gitattributes", "a.txt", "big.bin", "copy.bin", "copy.txt"]
    assert content(api, repo, "a.txt") == b"changed"
    assert content(api, repo, "copy.bin") == b"\0" * 5000
    assert content(api, repo, "copy.txt") == b"3"
    history = api.list_repo_commits(repo)
    assert [commit.title for commit in history] == ["change", "add", "initial commit"]
    assert history[0].message == "several things"
    assert history[0].authors == ["alice"]
    assert history[0].commit_id == info.oid == api.model_info(repo).sha


def test_nothing_changed_makes_no_commit(api, repo):
    first = add(api, repo).oid
    assert add(api, repo).oid == first
    assert len(api.list_repo_commits(repo)) == 2


def test_stale_parent_is_412(api, repo):
    old = api.model_info(repo).sha
    new = add(api, repo, parent_commit=old).oid
    with pytest.raises(HfHubHTTPError) as caught:
        add(api, repo, files={"b.txt": b"b"}, parent_commit=old)
    assert caught.value.response.status_code == 412
    assert api.model_info(repo).sha == new
    add(api, repo, files={"b.txt": b"b"}, parent_commit=new)


def test_concurrent_commits_all_land_or_conflict(api, repo):
    outcomes = []

    def publish(number):
        while True:
            head = api.model_info(repo).sha
            try:
                add(api, repo, files={f"{number}.txt": b"%d" % number}, parent_commit=head)
                return outcomes.append(number)
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == list(range(8))
    assert set(api.list_repo_files(repo)) == {".gitattributes", *(f"{number}.txt" for number in range(8))}
    assert len(api.list_repo_commits(repo)) == 9


def test_refused_commits_change_nothing(api, repo):
    head = add(api, repo, files={"folder/a.txt": b"a"}).oid
    with pytest.raises(EntryNotFoundError):
        api.delete_file("absent.txt", repo)
    with pytest.raises(RevisionNotFoundError):
        add(api, repo, revision="nowhere")
    with pytest.raises(BadRequestError, match="both a file and a folder"):
        add(api, repo, files={"b.txt": b"b", "folder": b"c"})
    with pytest.raises(BadRequestError, match="both a file and a folder"):
        add(api, repo, files={"folder/a.txt/b": b"c"})
    assert api.model_info(repo).sha == head


def test_upload_and_delete_folder(api, repo, tmp_path):
    for name in ("x/1.txt", "x/2.txt", "3.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    api.upload_folder(repo_id=repo, folder_path=tmp_path, path_in_repo="in")
    assert {"in/x/1.txt", "in/x/2.txt", "in/3.npy"} <= set(api.list_repo_files(repo))
    api.upload_folder(repo_id=repo, folder_path=tmp_path / "x", path_in_repo="in", delete_patterns="*.npy")
    assert "in/3.npy" not in api.list_repo_files(repo)
    api.delete_folder("in", repo)
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_branches(api, repo):
    first = add(api, repo).oid
    api.create_branch(repo, branch="exp/one", revision=first)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_branch(repo, branch="exp/one")
    assert caught.value.response.status_code == 409
    api.create_branch(repo, branch="exp/one", exist_ok=True)
    add(api, repo, files={"only.txt": b"here"}, revision="exp/one")
    assert content(api, repo, "only.txt", revision="exp/one") == b"here"
    assert not api.file_exists(repo, "only.txt")
    refs = api.list_repo_refs(repo)
    assert {branch.name for branch in refs.branches} == {"main", "exp/one"}
    api.delete_branch(repo, branch="exp/one")
    assert [branch.name for branch in api.list_repo_refs(repo).branches] == ["main"]
    for wrong in (lambda: api.delete_branch(repo, branch="main"), lambda: bob.create_branch(repo, branch="x")):
        with pytest.raises(HfHubHTTPError) as caught:
            wrong()
        assert caught.value.response.status_code == 403


def test_tags(api, repo):
    first = add(api, repo).oid
    api.create_tag(repo, tag="v1.0", tag_message="first")
    add(api, repo, files={"a.txt": b"b"})
    assert content(api, repo, "a.txt", revision="v1.0") == b"a"
    tag = api.list_repo_refs(repo).tags[0]
    assert (tag.name, tag.ref, tag.target_commit) == ("v1.0", "refs/tags/v1.0", first)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag(repo, tag="v1.0")
    assert caught.value.response.status_code == 409
    api.create_tag(repo, tag="old/est", revision=api.list_repo_commits(repo)[-1].commit_id)
    assert api.list_repo_files(repo, revision="old/est") == [".gitattributes"]
    api.delete_tag(repo, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(repo, tag="v1.0")


def test_super_squash(api, repo):
    add(api, repo)
    add(api, repo, files={"a.txt": b"b"})
    api.super_squash_history(repo, commit_message="one")
    assert [commit.title for commit in api.list_repo_commits(repo)] == ["one"]
    assert content(api, repo, "a.txt") == b"b"


def test_the_client_leaves_out_what_the_gitignore_says(api, repo):
    add(api, repo, files={".gitignore": b"# made by the build\n*.log\n!keep.log\n/build/\nsecret?.txt\n"})
    sent = (
        "a.txt",
        "a.log",
        "deep/b.log",
        "keep.log",
        "build/x.bin",
        "deep/build/y.bin",
        "secret1.txt",
        "secret12.txt",
    )
    add(api, repo, files={name: name.encode() for name in sent})
    kept = {"a.txt", "keep.log", "deep/build/y.bin", "secret12.txt"}
    assert set(api.list_repo_files(repo)) == kept | {".gitattributes", ".gitignore"}


def test_a_gitignore_that_is_uploaded_counts_for_its_own_upload(api, repo):
    add(api, repo, files={".gitignore": b"*.old"})
    add(api, repo, files={".gitignore": b"*.new", "a.old": b"a", "a.new": b"a"})
    assert set(api.list_repo_files(repo)) == {".gitattributes", ".gitignore", "a.old"}


def test_the_gitignore_of_another_branch_does_not_count(api, repo):
    api.create_branch(repo, branch="strict")
    add(api, repo, files={".gitignore": b"*.txt"}, revision="strict")
    add(api, repo, revision="strict")
    add(api, repo)
    assert "a.txt" in api.list_repo_files(repo)
    assert "a.txt" not in api.list_repo_files(repo, revision="strict")


def preupload(hub, repo, **body):
    return get_session().post(
        f"{hub.url}/api/models/{repo}/preupload/main", json=body, headers=build_hf_headers(token="hf_alice")
    )


@pytest.mark.parametrize("ignore", [5, ["*.log"], "[z-a]", "!", "a\\", "x" * 70_000, "*a*" * 20_000])
def test_a_gitignore_that_makes_no_sense_is_a_bad_request(hub, repo, ignore):
    response = preupload(hub, repo, files=[{"path": "a.log", "size": 1}], gitIgnore=ignore)
    assert response.status_code == 400


def test_a_pattern_that_backtracks_does_not_stop_the_server(hub, repo):
    files = [{"path": f"{'a' * 200}/{'a' * 200}{number}", "size": 1} for number in range(200)]
    start = time.monotonic()
    response = preupload(hub, repo, files=files, gitIgnore="*" + "a*" * 50 + "b\n**/**/*a*a*a*a*a*b")
    assert response.status_code == 200
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("lines", [b"", b"nonsense\n", b"[]\n", b'{"key": "file", "value": {"path": "x"}}\n'])
def test_malformed_commits(hub, api, repo, lines):
    response = get_session().post(f"{hub.url}/api/models/{repo}/commit/main", content=lines, headers=NDJSON)
    assert response.status_code == 400
    assert api.list_repo_files(repo) == [".gitattributes"]
