"""Files appear whole, with the permissions they were given, and nothing of a failed write stays."""

import hashlib
import os
import socket
import threading

import pytest

from hubinit.paths import name_problem, open_regular, sha256_of, write_atomically


def test_a_file_is_replaced_whole_and_hashed(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    write_atomically(path, "né")
    assert path.read_bytes() == "né".encode()
    assert sha256_of(path) == hashlib.sha256("né".encode()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_mode_holds_from_the_start_and_over_an_older_file(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o666)
    write_atomically(path, b"new", mode=mode)
    assert path.stat().st_mode & 0o777 == mode


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "shared"
    failed = []

    def write(letter):
        try:
            for _ in range(20):
                write_atomically(path, letter * 10_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set(path.read_text())) == 1 and path.stat().st_size == 10_000


def test_a_missing_folder_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        write_atomically(tmp_path / "no" / "x", "y")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a", "README.md", "anchor/adapter_config.json", ".gitattributes", "é.json", "名前.json"]
)
def test_names_that_a_file_may_have(name):
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, "does not lie in its folder") for name in ("", "/etc/x", "../x", "a/../b", "a//b", "./a", "a/")),
        *(
            (f"a{c}b.json", "invisible or bidirectional")
            for c in "\0\n\x1b\x7f\x85\u061c\u200b\u200e\u200f\u2028\ufeff"
        ),
        *(
            (f"a{c}b.json", "invisible or bidirectional")
            for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        ),
        ("a\udcffb", "invisible or bidirectional"),  # a byte that is not UTF-8
        ("e\u0301.json", "composed form"),
        ("x" * 201, "too long"),
        ("é" * 101, "too long"),
        ("/".join(["x" * 150] * 7), "too long"),
        *((name, "other systems") for name in ("a\\b", "C:x", "a?", "con", "aux.json", "x/COM1.txt", "a.", "a ", " a")),
    ],
)
def test_names_that_mean_something_else_somewhere_are_refused(name, said):
    assert said in name_problem(name)


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
def test_only_a_regular_file_is_opened_and_a_pipe_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "link":
        (tmp_path / "y").write_text("y")
        path.symlink_to(tmp_path / "y")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(str(path))
    else:
        path.mkdir()
    with listener, pytest.raises(OSError):
        open_regular(path)
    (tmp_path / "z").write_bytes(b"z")
    with open_regular(tmp_path / "z") as file:
        assert file.read() == b"z"
