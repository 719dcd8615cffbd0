"""One process does a run; the lease of one that is killed is free at once."""

import errno
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

from hubinit.runs.lease import holder_of, holders, lease_path, leased, own_turn

HOLD = """
import sys, time
from pathlib import Path
from hubinit.runs.lease import leased
with leased(Path(sys.argv[1]), "key") as holder:
    print(holder, flush=True)
    time.sleep(600)
"""


def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "None\n"
    with leased(tmp_path, "key") as holder:
        assert holder is not None
        assert holder.pid == other.pid
    assert holders(tmp_path) == {"key": holder}
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lease_path(tmp_path, "key").exists(), "the file of a killed process stays"
    assert holders(tmp_path) == {}
    with leased(tmp_path, "key") as holder:
        assert holder is None
    assert not lease_path(tmp_path, "key").exists()


def test_of_many_threads_one_is_inside(tmp_path: Path) -> None:
    inside, most, turns = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        while len(turns) < 200:
            with leased(tmp_path, "key") as holder:
                if holder is None:
                    inside += 1
                    most = max(most, inside)
                    turns.append(1)
                    inside -= 1

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)


def test_who_waits_is_told_for_whom_and_gets_its_turn(tmp_path: Path) -> None:
    told = []
    with leased(tmp_path, "other"), leased(tmp_path, "key"):
        waiting = Thread(target=lambda: _enter(tmp_path, told))
        waiting.start()
        while not told:
            time.sleep(0.01)
        assert set(holders(tmp_path)) == {"other", "key"}
    waiting.join()
    assert told[-1] == "entered"
    assert str(told[0]).startswith("process ")
    assert holder_of(tmp_path, "key") is None


def _enter(store: Path, told: list) -> None:
    with own_turn(store, "key", told.append):
        told.append("entered")


def test_a_file_system_without_locks_lets_everybody_work(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with leased(tmp_path, "key") as first, leased(tmp_path, "key") as second:
        assert first is second is None
        assert holder_of(tmp_path, "key") is not None
