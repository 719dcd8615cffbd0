"""Files appear whole, with the permissions they were given, and nothing of a failed write stays."""

import hashlib
import threading

import pytest

from hubinit.paths import sha256_of, write_atomically


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
