"""Wheels: fetched once by the real pip from a folder, verified every time, and every failure is one sentence."""

import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from hubinit.devhub.seed import wheels
from hubinit.devhub.seed.wheels import Wheel, cache_root, fetch, open_archive, scratch_folder
from hubinit.errors import HubinitError
from tests.devhub.wheel_files import build_wheel


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is the only place where pip looks."""
    folder = tmp_path / "index"
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_once_and_leaves_nothing_else_behind(tmp_path, index):
    wheel, lines = build_wheel(index, {"data.txt": b"content"}), []
    path = fetch(wheel, tmp_path / "cache", lines.append)
    with open_archive(path) as archive:
        assert archive.read("data.txt") == b"content"
    assert [line.split()[0] for line in lines] == ["fetching", "fetched"]
    shutil.rmtree(index)  # a second fetch would fail now
    assert fetch(wheel, tmp_path / "cache", lines.append) == path
    assert len(lines) == 2
    assert [file.name for file in (tmp_path / "cache" / "wheels").iterdir()] == [wheel.filename]


def test_a_wheel_that_is_not_the_pinned_one_is_not_kept(tmp_path, index):
    pinned = build_wheel(tmp_path / "elsewhere", {"data.txt": b"pinned"})
    other = build_wheel(index, {"data.txt": b"another"})
    with pytest.raises(HubinitError, match=f"sha256 is {other.sha256[:16]}.*not the pinned {pinned.sha256[:16]}"):
        fetch(pinned, tmp_path / "cache", print)
    assert not list((tmp_path / "cache" / "wheels").iterdir())


def test_a_damaged_file_in_the_cache_is_refused_by_name(tmp_path, index):
    wheel = build_wheel(index, {"data.txt": b"content"})
    path = fetch(wheel, tmp_path / "cache", print)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(HubinitError, match=f"{wheel.filename} is not the pinned tiny-seed==1.0.*delete the file"):
        fetch(wheel, tmp_path / "cache", print)


def test_what_pip_says_is_passed_on(tmp_path, index):
    index.mkdir()
    wheel = Wheel("tiny-seed", "9.9", "tiny_seed-9.9-py3-none-any.whl", "0" * 64, 10, date="")
    with pytest.raises(HubinitError, match=r"pip could not fetch tiny-seed==9.9: No matching distribution"):
        fetch(wheel, tmp_path / "cache", print)


def test_an_index_that_cannot_be_reached_is_named_as_the_reason(tmp_path, index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")  # nobody listens on the discard port
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        HubinitError, match=r"pip could not fetch tiny-seed==1.0: the package index could not be reached"
    ):
        fetch(build_wheel(tmp_path / "elsewhere", {}), tmp_path / "cache", print)


def test_a_full_disk_is_noticed_before_anything_is_fetched(tmp_path, index, monkeypatch):
    wheel, lines = build_wheel(index, {}), []
    usage = namedtuple("usage", "total used free")(10**9, 10**9, wheel.size)
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(HubinitError, match="No disk space"):
        fetch(wheel, tmp_path / "cache", lines.append)
    assert not lines


def test_a_cache_that_cannot_be_a_folder_is_one_sentence(tmp_path, index):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(HubinitError, match="Cannot use the folder"):
        fetch(build_wheel(index, {}), tmp_path / "cache", print)


def test_a_file_that_is_not_an_archive_is_one_sentence(tmp_path):
    (tmp_path / "x.whl").write_bytes(b"not a zip")
    with pytest.raises(HubinitError, match="not a readable wheel"):
        open_archive(tmp_path / "x.whl")


def test_what_a_killed_process_left_behind_is_removed_a_day_later(tmp_path):
    for name, age in (("old", 100_000), ("recent", 100)):
        (tmp_path / f".scratch-{name}").mkdir()
        os.utime(tmp_path / f".scratch-{name}", (time.time() - age,) * 2)
    with scratch_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".scratch-recent", folder.name}


def test_the_cache_is_hubinits_own_and_can_be_put_elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("HUBINIT_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path.home() / ".cache" / "hubinit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "hubinit"
    monkeypatch.setenv("HUBINIT_HOME", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
