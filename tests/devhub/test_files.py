"""Reading files through the real client: downloads, ranges, listings, the file system."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfFileSystem
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session

REPO = "alice/reading"
FILES = {
    "README.md": b"# hello\n",
    "data/train/a b%20c?#é.jsonl": b'{"x": 1}\n' * 10,
    "data/train/deep/er/z.txt": b"z",
    "data/test.txt": b"test",
    "weights.safetensors": bytes(range(256)) * 40,
    "empty.txt": b"",
}


@pytest.fixture(scope="module", autouse=True)
def repo(hub):
    from huggingface_hub import HfApi

    api = HfApi(token="hf_alice")
    api.create_repo(REPO, exist_ok=True)
    api.create_commit(
        REPO, [CommitOperationAdd(path, content) for path, content in FILES.items()], commit_message="all"
    )
    api.create_branch(REPO, branch="exp/one")
    api.upload_file(path_or_fileobj=b"later", path_in_repo="later.txt", repo_id=REPO, commit_message="second")


@pytest.mark.parametrize("path", FILES)
def test_download(api, path):
    assert Path(api.hf_hub_download(REPO, path)).read_bytes() == FILES[path]


def test_download_names_blobs_by_their_hash(api):
    import hashlib

    content = FILES["weights.safetensors"]
    blob = Path(api.hf_hub_download(REPO, "weights.safetensors")).resolve()
    assert blob.name == hashlib.sha256(content).hexdigest()
    blob = Path(api.hf_hub_download(REPO, "README.md")).resolve()
    assert blob.name == hashlib.sha1(b"blob 8\0# hello\n").hexdigest()
    assert api.verify_repo_checksums(REPO).mismatches == []


def test_download_from_revisions(api):
    head = api.model_info(REPO).sha
    old = api.model_info(REPO, revision="exp/one").sha
    assert old != head
    for revision in ("exp/one", old):
        with pytest.raises(RemoteEntryNotFoundError):
            api.hf_hub_download(REPO, "later.txt", revision=revision)
        assert api.hf_hub_download(REPO, "README.md", revision=revision)
    assert f"/snapshots/{head}/" in api.hf_hub_download(REPO, "later.txt", revision=head)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "README.md", revision="none")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "README.md", revision="0" * 40)


def test_commits_of_other_repos_do_not_resolve(api):
    api.create_repo("alice/closed", private=True, exist_ok=True)
    sha = api.upload_file(path_or_fileobj=b"secret", path_in_repo="s.txt", repo_id="alice/closed").oid
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "s.txt", revision=sha)


def test_absence_is_cached(api):
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "absent.json")
    assert try_to_load_from_cache(REPO, "absent.json") is _CACHED_NO_EXIST
    assert not api.file_exists(REPO, "absent.json")
    assert api.file_exists(REPO, "README.md")
    assert api.revision_exists(REPO, "exp/one")
    assert not api.revision_exists(REPO, "exp/two")


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-999999", 206, slice(5, None)),
        ("bytes=10240-", 416, None),
    ],
)
def test_ranges(hub, header, status, expected):
    url = f"{hub.url}/{REPO}/resolve/main/weights.safetensors"
    response = get_session().get(url, headers={"Range": header})
    assert response.status_code == status
    if expected is not None:
        content = FILES["weights.safetensors"]
        assert response.content == content[expected]
        start = expected.indices(len(content))[0]
        assert response.headers["Content-Range"].startswith(f"bytes {start}-")


def test_snapshot_download(api, tmp_path):
    folder = Path(api.snapshot_download(REPO, local_dir=tmp_path, ignore_patterns=[".git*"]))
    found = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }
    assert found == {*FILES, "later.txt"}
    assert all((folder / path).read_bytes() == content for path, content in FILES.items())


def test_tree(api):
    flat = {item.path: type(item).__name__ for item in api.list_repo_tree(REPO)}
    assert flat["data"] == "RepoFolder"
    assert flat["weights.safetensors"] == "RepoFile"
    assert "data/test.txt" not in flat
    assert {item.path for item in api.list_repo_tree(REPO, "data")} == {"data/train", "data/test.txt"}
    everything = {item.path for item in api.list_repo_tree(REPO, recursive=True)}
    assert everything >= {*FILES, "data", "data/train", "data/train/deep", "data/train/deep/er", ".gitattributes"}
    below = {item.path for item in api.list_repo_tree(REPO, "data/train/deep", recursive=True)}
    assert below == {"data/train/deep/er", "data/train/deep/er/z.txt"}
    weights = next(item for item in api.list_repo_tree(REPO) if item.path == "weights.safetensors")
    assert (weights.size, weights.lfs.size) == (10240, 10240)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "nowhere"))


def test_tree_expanded_names_the_last_commit(api):
    items = {item.path: item for item in api.list_repo_tree(REPO, expand=True)}
    assert items["README.md"].last_commit.title == "all"
    assert items["later.txt"].last_commit.title == "second"
    assert items["data"].last_commit.title == "all"
    assert items[".gitattributes"].last_commit.title == "initial commit"


def test_tree_pages(hub):
    response = get_session().get(
        f"{hub.url}/api/models/{REPO}/tree/main?recursive=true&limit=4", headers=build_hf_headers()
    )
    names = [item["path"] for item in response.json()]
    assert len(names) == 4
    while "next" in response.links:
        response = get_session().get(response.links["next"]["url"], headers=build_hf_headers())
        names += [item["path"] for item in response.json()]
    assert names == sorted(set(names))
    assert len(names) == 2 + len(FILES) + 4


def test_paths_info(api):
    items = {
        item.path: item for item in api.get_paths_info(REPO, ["data", "data/test.txt", "absent", *FILES], expand=True)
    }
    assert set(items) == {"data", *FILES}
    assert items["data/test.txt"].last_commit.title == "all"
    assert items["weights.safetensors"].lfs.sha256


def test_file_system(hub):
    fs = HfFileSystem(token="hf_alice", skip_instance_cache=True)
    assert fs.read_bytes(f"{REPO}/README.md") == FILES["README.md"]
    assert sorted(fs.glob(f"{REPO}/data/**/*.txt")) == [f"{REPO}/data/test.txt", f"{REPO}/data/train/deep/er/z.txt"]
    assert fs.read_text(f"{REPO}@exp%2Fone/data/test.txt") == "test"
    with fs.open(f"{REPO}/weights.safetensors", block_size=100) as file:
        file.seek(300)
        assert file.read(50) == FILES["weights.safetensors"][300:350]
    with fs.open(f"{REPO}/written.txt", "w") as file:
        file.write("through fsspec")
    assert fs.read_text(f"{REPO}/written.txt") == "through fsspec"
    fs.rm(f"{REPO}/written.txt")
    assert not fs.exists(f"{REPO}/written.txt")
