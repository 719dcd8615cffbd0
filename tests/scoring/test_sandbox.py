"""Programs of a model do no harm: every attack with each protection that this machine has, and the refusal where it has none."""

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hubinit.errors import HubinitError
from hubinit.scoring import protections, sandbox
from hubinit.scoring.sandbox import Limits, Outcome, Protection, run_program, run_programs, run_within

LIMITS = Limits(seconds=30, cpu_seconds=1, memory=256 << 20, file_size=1 << 20, folder_size=4 << 20, processes=8)
Run = Callable[[str], Outcome]


@pytest.fixture(params=["bubblewrap", "namespaces"])
def within(request: pytest.FixtureRequest) -> Protection:
    """Each protection, skipped with the reason where it does not work."""
    if reason := sandbox.problem(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def run(within: Protection) -> Run:
    return lambda source: run_within(within, source, LIMITS)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while True: pass", "timed out (processor time)"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError in: while True: x.append(bytearray(1 << 20))"),
        ("x = bytearray(10**13)", "MemoryError in: x = bytearray(10**13)"),
        ("import os; os._exit(0)", "ended before its last line"),
        ("import os; os._exit(7)", "ended with exit code 7"),
        ("raise SystemExit(0)", "SystemExit: 0 in: raise SystemExit(0)"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded in: def f(): f()"),
        ("import sys; sys.setrecursionlimit(9**9)\nclass A:\n    def __getattr__(self, x): return getattr(self, x)\nA().x", None),
        ("import ctypes; ctypes.string_at(0)", "killed by a signal (Segmentation fault)"),
        ("input('a number: ')", "EOFError: EOF when reading a line in: input('a number: ')"),
        ("def f(:", "SyntaxError: invalid syntax (program.py, line 1)"),
        ("def f(n):\n    return n\nassert f(1) == 2", "AssertionError in: assert f(1) == 2"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy' in: import numpy"),
        ("open('big', 'wb').write(bytes(2 << 20))", "OSError: [Errno 27] File too large"),
        ("for n in range(9): open(f'{n}', 'wb').write(bytes(1 << 20))", "OSError: [Errno 28] No space left on device"),
    ],
)  # fmt: skip
def test_a_program_that_fails_has_a_reason(run: Run, source: str, reason: str | None) -> None:
    outcome = run(source)
    assert not outcome.ok
    assert outcome.reason
    assert reason is None or outcome.reason.startswith(reason)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import collections, hashlib, heapq, itertools, json, math, random, re, ssl, string, typing, zlib",
        "import os\nassert not os.environ and not os.path.isdir(os.path.expanduser('~/.cache'))",
        "import sys\nfor _ in range(50): print('x' * 10**6); print('x' * 10**6, file=sys.stderr)",
        "open('file', 'w').write('x'); assert open('file').read() == 'x'",
        "import os, time\nif os.fork() == 0: time.sleep(60)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "import os\nos._exit = os.write = os.getpid = None",
    ],
)
def test_a_program_that_ends_well_has_passed(run: Run, source: str) -> None:
    assert run(source) == Outcome(True)


def test_time_ends_a_program_that_only_waits(within: Protection) -> None:
    outcome = run_within(within, "import time; time.sleep(60)", Limits(seconds=3))
    assert outcome == Outcome(False, "timed out")


def test_a_fork_bomb_stops_at_the_limit(run: Run) -> None:
    outcome = run("import os\nwhile True: os.fork()")
    assert outcome.reason in (
        "BlockingIOError: [Errno 11] Resource temporarily unavailable in: while True: os.fork()",
        "timed out",
    )
    counted = "import os, time\nfor n in range(50):\n    if os.fork() == 0: time.sleep(60)"
    assert (
        run(counted).reason
        == "BlockingIOError: [Errno 11] Resource temporarily unavailable in: if os.fork() == 0: time.sleep(60)"
    )


DAEMON = "import os\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/usr/bin/sleep', ['{mark}', '60'])\n{then}"


@pytest.mark.parametrize("then", ["", "while True: pass", "import time; time.sleep(60)", "os._exit(0)", "1 / 0"])
def test_nothing_that_a_program_started_lives_on(within: Protection, then: str) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    run_within(within, DAEMON.format(mark=mark, then=then), Limits(seconds=3, cpu_seconds=1))
    wait_for(lambda: not list(processes(mark)))  # the kernel ends them a moment later


def test_without_protection_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    source = DAEMON.format(mark=mark, then="import time; time.sleep(0.5)")
    assert run_within("none", source, Limits()).ok
    found = list(processes(mark))
    for process in found:
        process.kill()
    assert len(found) == 1


def processes(mark: str) -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or []))


def test_the_files_of_this_machine_stay(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("precious")
    kept.chmod(0o666)
    tmp_path.chmod(0o777)
    folders = [str(tmp_path), str(Path.home()), "/usr/bin", "/etc", "/var"]
    source = (
        f"import shutil\nfor folder in {folders}: shutil.rmtree(folder, ignore_errors=True)\nopen({str(kept)!r}, 'w')"
    )
    outcome = run(source)
    assert outcome.reason is not None and "Error" in outcome.reason
    assert kept.read_text() == "precious" and Path("/usr/bin/env").exists()


def test_only_its_own_folder_can_be_written_to(run: Run) -> None:
    places = [
        "/",
        "/tmp",
        "/var/tmp",
        "/usr",
        "/usr/lib",
        "/dev",
        "/dev/shm",
        "/proc",
        "/root",
        "/etc",
        os.__file__[:-5],
        str(Path.home()),
    ]
    source = f"""
import os
found = []
for place in {places}:
    try:
        open(os.path.join(place, "x"), "w").close()
        found.append(place)
    except OSError:
        pass
assert not found, found"""
    assert run(source) == Outcome(True)


def test_tokens_and_homes_are_out_of_sight(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_secret")
    token.chmod(0o644)
    outcome = run(f"import os\nassert not os.environ\nopen({str(token)!r}).read()")
    assert outcome.reason is not None and outcome.reason.startswith("FileNotFoundError")
    for home in {Path.home(), Path("~" + (os.environ.get("USER") or "root")).expanduser()}:
        listing = f"""
import os
names = [name for _, _, names in os.walk({str(home)!r}) for name in names]
assert not [name for name in names if name == "token" or name.startswith(".bash")]"""
        assert run(listing) == Outcome(True)


def test_loopback_is_out_of_reach(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        outcome = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)")
        assert not outcome.ok and outcome.reason is not None and "Error" in outcome.reason
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "target",
    ["os.getppid()", "1", "-1", str(os.getpid()), str(os.getppid())],
    ids=["its parent", "init", "all", "hubinit", "the parent of hubinit"],
)
def test_the_parent_cannot_be_killed(run: Run, target: str) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        run(f"import os, signal\nfor number in (signal.SIGTERM, signal.SIGKILL):\n    os.kill({target}, number)")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not received
    assert run("").ok


def test_the_report_cannot_be_flooded_or_forged(run: Run) -> None:
    to_all = "import os\nfor number in range(3, 64):\n    try:\n        {}\n    except OSError: pass\n"
    flood = to_all.format("while True: os.write(number, b'x' * 65536)")
    outcome = run(flood)
    assert not outcome.ok and outcome.reason is not None and len(outcome.reason) <= 500
    assert not run(to_all.format("os.write(number, b'started\\npassed')") + "os._exit(0)").ok


def test_no_further_user_namespace_can_be_made(run: Run) -> None:
    assert run(
        "import subprocess\nassert subprocess.run(['/usr/bin/unshare', '--user', '--map-root-user', 'true']).returncode"
    ) == Outcome(True)


def test_many_run_side_by_side_and_stay_in_order(within: Protection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "active", lambda: within)
    seen: list[tuple[int, int]] = []
    outcomes = run_programs([f"assert {n} % 3" for n in range(12)], on_done=lambda *progress: seen.append(progress))
    assert [outcome.ok for outcome in outcomes] == [n % 3 > 0 for n in range(12)]
    assert seen == [(n, 12) for n in range(1, 13)]


@pytest.fixture
def unprotected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose kernel refuses every namespace."""
    refuses = lambda folder, folder_size: [sys.executable, "-c", "raise SystemExit('Operation not permitted')"]  # noqa: E731
    for name in ("bubblewrap", "namespaces"):
        monkeypatch.setitem(sandbox.COMMANDS, name, refuses)
    monkeypatch.delenv(sandbox.ALLOW, raising=False)
    sandbox.protection.cache_clear()
    yield
    sandbox.protection.cache_clear()


def test_without_isolation_nothing_runs_unless_it_is_allowed(
    unprotected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"open({str(tmp_path / 'ran')!r}, 'w')"
    for attempt in (run_program, lambda source: run_programs([source])):
        with pytest.raises(HubinitError, match=r"isolates nothing here: install bubblewrap .*--allow-code"):
            attempt(source)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(sandbox.ALLOW, "1")
    assert sandbox.active() == "none"
    assert run_program(source).ok
    assert (tmp_path / "ran").exists()


def test_without_isolation_limits_still_hold() -> None:
    assert run_within("none", "while True: pass", LIMITS).reason == "timed out (processor time)"
    assert run_within("none", "import time; time.sleep(60)", Limits(seconds=1)).reason == "timed out"
    assert run_within("none", "x = bytearray(1 << 40)", LIMITS).reason == "MemoryError in: x = bytearray(1 << 40)"
    assert run_within("none", "import os\nassert not os.environ and 'hubinit-sandbox' in os.getcwd()", LIMITS).ok


def test_the_next_protection_is_taken_where_one_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := sandbox.problem("namespaces"):
        pytest.skip(reason)
    monkeypatch.setitem(
        sandbox.COMMANDS, "bubblewrap", lambda folder, folder_size: [protections.program("no-such-bwrap")]
    )
    sandbox.protection.cache_clear()
    try:
        assert sandbox.problem("bubblewrap") == "'no-such-bwrap' is not installed"
        assert sandbox.protection() == "namespaces"
    finally:
        sandbox.protection.cache_clear()


def test_a_sandbox_that_breaks_is_not_a_wrong_program(unprotected: None) -> None:
    with pytest.raises(HubinitError, match=r"The sandbox \(bubblewrap\) did not start: Operation not permitted"):
        run_within("bubblewrap", "", LIMITS)


def test_a_sandbox_that_starts_at_the_second_try_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = iter([["/bin/false"], protections.python()])
    monkeypatch.setitem(sandbox.COMMANDS, "none", lambda folder, folder_size: next(commands))
    assert run_within("none", "", LIMITS) == Outcome(True)


def test_the_program_ends_with_hubinit(within: Protection, tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    script = (
        "import sys, types, hubinit\n"
        "package = sys.modules['hubinit.scoring'] = types.ModuleType('hubinit.scoring')\n"
        "package.__path__ = [hubinit.__path__[0] + '/scoring']  # without torch, which takes seconds\n"
        "from hubinit.scoring.sandbox import Limits, run_within\n"
        "run_within(sys.argv[1], sys.argv[2], Limits(seconds=60))"
    )
    program = f"import os\nos.execv('/usr/bin/sleep', ['{mark}', '50'])"
    with psutil.Popen([sys.executable, "-c", script, within, program], cwd=Path(__file__).parents[2]) as hubinit:
        wait_for(lambda: list(processes(mark)))
        hubinit.kill()
    wait_for(lambda: not list(processes(mark)))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
