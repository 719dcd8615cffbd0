"""What runs inside the sandbox: takes one program, sets its limits, runs it and reports. Never imported: see `sandbox.py`.

The report is the first that is written to standard output: `started`, then either the secret word that only a program reaches
that has run to its end, or why it has not.
"""

import json
import os
import resource
import sys
import traceback

NAME = "program.py"  # of the program, in tracebacks


def main() -> None:
    """Runs the program that standard input holds as JSON, with its limits, its folder and the secret word."""
    job = json.load(sys.stdin)
    report, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # there is nothing to read, and what is printed is dropped
        os.dup2(nothing, descriptor)
    os.chdir(job["folder"])
    os.environ.clear()
    for name, limit in job["limits"].items():
        lower_limit(getattr(resource, name), limit)
    write, leave, process, number = os.write, os._exit, os.getpid, os.getpid()  # before the program can replace them
    write(report, b"started\n")
    try:
        exec(compile(job["source"], NAME, "exec"), {})  # noqa: S102
    except BaseException as error:
        if process() == number:
            write(report, reason(error, job["source"]).encode(errors="replace"))
        leave(1)
    if process() == number:  # not a child that the program has forked
        write(report, job["secret"].encode())
    leave(0)  # without what the program registered for its exit, and without waiting for its threads


def lower_limit(kind: int, limit: int) -> None:
    """Sets a resource limit, or keeps the one that is lower already. A second more of time: the first signal says why."""
    hard = limit + 1 if kind == resource.RLIMIT_CPU else limit
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        limit, hard = min(limit, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (limit, hard))


def reason(error: BaseException, source: str) -> str:
    """Why the program failed, in one line: the error, and the last line of the program itself that led there."""
    try:
        said = (str(error).splitlines() or [""])[0][:300]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
        code = source.split("\n")[(lines[-1] or 1) - 1].strip()[:300] if lines else ""
    except BaseException:  # an error of the program's own making
        said = code = ""
    return type(error).__name__ + (f": {said}" if said else "") + (f" in: {code}" if code else "")


if __name__ == "__main__":
    main()
