"""The store without a server, as the seeding command uses it."""

import pytest
from huggingface_hub.errors import HfHubHTTPError

from hubinit.devhub.names import is_lfs
from hubinit.devhub.records import Entry, changed_tree
from hubinit.devhub.refusals import Refusal
from hubinit.devhub.store import Store
from hubinit.errors import HubError


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "root")
    store.create_repo("dataset", "org/data")
    return store


def test_commit_and_read(store, tmp_path):
    source = tmp_path / "file.parquet"
    source.write_bytes(b"PAR1" * 1000)
    sha = store.commit("dataset", "org/data", {"a.txt": b"text", "d/x.parquet": source}, message="fill", author="org")
    source.write_bytes(b"changed afterwards")
    assert store.load("dataset", "org/data").head == sha
    assert store.read("dataset", "org/data", "a.txt") == b"text"
    assert store.read("dataset", "org/data", "d/x.parquet", sha) == b"PAR1" * 1000
    assert store.tree_of(sha)["d/x.parquet"].lfs
    assert not store.tree_of(sha)["a.txt"].lfs


def test_the_same_content_is_no_new_commit(store):
    first = store.commit("dataset", "org/data", {"a.txt": b"text"}, message="one", author="org")
    assert store.commit("dataset", "org/data", {"a.txt": b"text"}, message="two", author="org") == first
    assert store.commit("dataset", "org/data", {"a.txt": b"new"}, message="three", author="org") != first


def test_fixed_dates_give_the_same_shas_everywhere(tmp_path):
    heads = set()
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        store.create_repo("model", "org/m", date="2026-01-01T00:00:00.000Z")
        store.commit("model", "org/m", {"a": b"a"}, message="fill", author="org", date="2026-01-02T00:00:00.000Z")
        heads.add(store.load("model", "org/m").head)
    assert len(heads) == 1


def test_seeded_content_is_served(hub, api):
    """What another Store object writes to the root is there for the running server at once."""
    other = Store(hub.store.root)
    other.create_repo("model", "org/seeded")
    sha = other.commit("model", "org/seeded", {"config.json": b"{}"}, message="seed", author="org")
    assert api.model_info("org/seeded").sha == sha
    assert not api.list_repo_commits("org/seeded")[0].message


def test_seeded_repos_are_read_only_over_http(hub, api):
    Store(hub.store.root).create_repo("model", "org/read-only")
    assert api.create_repo("org/read-only", exist_ok=True).repo_id == "org/read-only"
    with pytest.raises(HfHubHTTPError, match="no write access to org/read-only"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="org/read-only")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="org/read-only", create_pr=True)
    assert api.list_repo_files("org/read-only") == [".gitattributes"]


def test_missing_things(store):
    for call in (
        lambda: store.read("dataset", "org/data", "absent"),
        lambda: store.read("dataset", "org/none", "a"),
        lambda: store.read("dataset", "org/data", ".gitattributes", "nowhere"),
        lambda: store.commit("dataset", "org/data", {}, message="m", author="org", delete=["absent"]),
    ):
        with pytest.raises(Refusal) as caught:
            call()
        assert caught.value.status == 404
        assert isinstance(caught.value, HubError)
    with pytest.raises(Refusal):
        store.create_repo("dataset", "org/data", exist_ok=False)
    assert store.repo_exists("dataset", "org/data")
    assert not store.repo_exists("model", "org/data")


E = Entry("s", 1, "o", False)


@pytest.mark.parametrize(
    ("old", "add", "delete", "expected"),
    [
        ("a b", "c", [], "a b c"),
        ("a d/x d/y dd", "", ["d/"], "a dd"),
        ("a", "a/b", ["a"], "a/b"),
        ("d/x", "d", ["d/"], "d"),
        ("a", "a", ["a"], "a"),
        ("a", "a/b", [], None),
        ("d/e/x", "d", [], None),
        ("", "a a/b", [], None),
        ("a", "", ["b"], None),
        ("a", "", ["a/"], None),
    ],
)
def test_changed_tree(old, add, delete, expected):
    def call():
        return changed_tree(dict.fromkeys(old.split(), E), dict.fromkeys(add.split(), E), delete)

    if expected is None:
        with pytest.raises(Refusal):
            call()
    else:
        assert set(call()) == set(expected.split())


@pytest.mark.parametrize(
    ("path", "size", "sample", "expected"),
    [
        ("a.txt", 10, b"text", False),
        ("a.SAFETENSORS", 10, b"text", True),
        ("a.bin", 0, b"", False),
        ("a.txt", 2 << 20, b"text", True),
        ("a", 10, b"\0", True),
        ("a", 10, b"\xff\xfe" * 5, True),
        ("a", 600, b"x" * 511 + "é".encode()[:1], False),
    ],
)
def test_lfs_rule(path, size, sample, expected):
    assert is_lfs(path, size, sample) is expected
