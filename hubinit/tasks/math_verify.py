"""Symbolic equality by the package math-verify (extra `math`), in a process of its own.

Computer algebra on what a model wrote can take for ever (`9**9**9**9`) and all the memory, and math-verify's own limit is a
signal, which works on the main thread only. So one helper process answers question after question; it ends itself when one
takes too long, and the next question starts another.
"""

import atexit
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from hubinit.errors import HubinitError
from hubinit.tasks.spec import Document, Rule

LONGEST = 20_000  # characters of an output that are read, from its end: more than 2,048 tokens have
WORKER = Path(__file__).with_name("math_verify_worker.py")
_lock = Lock()
_idle: list["subprocess.Popen[str]"] = []  # the helper process, while nobody asks it


def math_verify_rule(gold: Callable[[Document], str]) -> Rule:
    """The rule whose reference is `gold`: plain text, or LaTeX between dollars."""
    return Rule(
        "math-verify",
        ask,
        lambda output, document: bool(ask(output, gold(document))),
        "github.com/huggingface/Math-Verify: parse(output) and verify(gold, answer) with their defaults",
        whole=True,
        extra="math",
    )


def ask(output: str, gold: str | None = None) -> Any:
    """What math-verify says of an output.

    Args:
        output: of a model; the end of it, if it is long.
        gold: the reference.

    Returns:
        With a reference whether they are equal, without one the answer as it is written. None where there is not an answer, and
        where it takes too long or too much memory.

    Raises:
        HubinitError: math-verify cannot be loaded.
    """
    with _lock:
        worker = _idle.pop() if _idle else start_worker()
        if worker.poll() is not None:  # something else ended it
            worker = start_worker()
        assert worker.stdin and worker.stdout
        reply = ""
        try:
            print(json.dumps([output[-LONGEST:], gold]), file=worker.stdin, flush=True)
            reply = worker.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            if reply.endswith("\n"):
                _idle.append(worker)
            else:
                worker.kill()
                worker.communicate()
    return json.loads(reply) if reply.endswith("\n") else None


def start_worker() -> "subprocess.Popen[str]":
    """A helper process that has loaded math-verify.

    Raises:
        HubinitError: it cannot.
    """
    worker = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert worker.stdout
    if worker.stdout.readline() != "ready\n":
        worker.communicate()
        raise HubinitError('math-verify cannot be loaded; run pip install --force-reinstall "hubinit[math]".')
    return worker


@atexit.register
def end_worker() -> None:
    """Ends the helper process, whose input ends."""
    while _idle:
        _idle.pop().communicate()
