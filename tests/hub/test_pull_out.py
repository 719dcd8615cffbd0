"""`pull --out` follows no link: not in the folder, not on the way to it, not in the cache; it writes what it checked."""

import os
import shutil
from pathlib import Path

import pytest

from hubinit.errors import HubError
from hubinit.hub import pull as module
from hubinit.hub.pull import pull
from tests.hub.builders import publish_run, run, run_folder


@pytest.fixture(scope="module")
def repo(hub, tmp_path_factory) -> str:
    """A start point with an anchor."""
    from huggingface_hub import HfApi

    folder = run_folder(tmp_path_factory.mktemp("run"))
    return publish_run(HfApi(token="hf_alice"), run(seed=301), folder, "alice")[0].repo_id


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_out_is_not_a_link(api, repo, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "theirs")
    with pytest.raises(HubError, match="out is a link, which is not followed"):
        pull(api, repo, out=tmp_path / "out")
    assert snapshot(tmp_path / "theirs") == {}


@pytest.mark.parametrize("mine", [True, False])
def test_a_link_on_the_way_is_followed_only_where_this_user_made_it(api, repo, tmp_path, monkeypatch, mine):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "way"
    link.symlink_to(tmp_path / "disk")
    if not mine:
        owner = os.geteuid() or 12345
        if os.geteuid() == 0:
            os.chown(link, owner, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(HubError, match="way is a link"):
            pull(api, repo, out=link / "out")
    else:
        pull(api, repo, out=link / "out")
    assert (tmp_path / "disk" / "out").exists() == mine


@pytest.mark.parametrize("name", ["anchor", "anchor/adapter_config.json", "README.md", "hubinit.json"])
@pytest.mark.parametrize("before", ["nothing", "an earlier pull"])
def test_links_in_the_folder_are_in_the_way(api, repo, tmp_path, name, before):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    theirs.mkdir()
    if before == "nothing":
        out.mkdir()
    else:
        pull(api, repo, out=out)
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).rename(theirs / Path(name).name)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(theirs if name == "anchor" else theirs / Path(name).name)
    kept = snapshot(theirs)
    with pytest.raises(HubError, match="is in the way"):
        pull(api, repo, out=out)
    assert snapshot(theirs) == kept
    assert (out / name).is_symlink()


@pytest.mark.parametrize("name", ["adapter_config.json", "README.md", "hubinit.json", "anchor/x.json"])
def test_pipes_in_the_folder_are_in_the_way_and_do_not_hang(api, repo, tmp_path, name):
    pull(api, repo, out=tmp_path / "out")
    (tmp_path / "out" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(HubError, match=f"{name} is in the way"):
        pull(api, repo, out=tmp_path / "out")


def test_a_copy_in_the_cache_that_leads_elsewhere_is_not_used(api, repo, tmp_path):
    cached = pull(api, repo).folder / "adapter_config.json"
    blob = cached.resolve()
    shutil.copy(blob, tmp_path / "same-content.json")
    target = cached.readlink()
    cached.unlink()
    cached.symlink_to(tmp_path / "same-content.json")
    try:
        with pytest.raises(HubError, match="in the Hub's cache leads out of"):
            pull(api, repo, out=tmp_path / "out")
    finally:
        cached.unlink()
        cached.symlink_to(target)
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_what_was_checked(api, repo, tmp_path, monkeypatch):
    """Another process changes the cache between the check and the copy."""
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copyfile(a, b) and Path(b).write_bytes(b"other"))
    with pytest.raises(HubError, match="changed while it was being copied"):
        pull(api, repo, out=tmp_path / "out")
    assert not list(tmp_path.iterdir()), "nothing half-done stays"


def test_a_new_folder_appears_whole(api, repo, tmp_path, monkeypatch):
    seen = []
    copy = module._copy
    monkeypatch.setattr(module, "_copy", lambda *a: seen.append((tmp_path / "a" / "out").exists()) or copy(*a))
    pulled = pull(api, repo, out=tmp_path / "a" / "out")
    assert seen and not any(seen)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert snapshot(pulled.folder).keys() == {*pulled.manifest.files, "README.md", "hubinit.json"}
    monkeypatch.undo()
    pull(api, repo, out=pulled.folder)
    assert not list(pulled.folder.glob(".*")), "no workshop stays behind"
    mode = pulled.folder.stat().st_mode & 0o777
    (tmp_path / "b").mkdir()
    assert mode == (tmp_path / "b").stat().st_mode & 0o777, "as any folder of this user"
