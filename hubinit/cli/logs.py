"""What `hubinit logs` does: finds the log of a run by the beginning of its key, prints it and follows it."""

import sys
import time
from glob import escape
from pathlib import Path

from hubinit.errors import HubinitError
from hubinit.remote import redact
from hubinit.runs.lease import holder_of

EVERY = 0.5  # seconds between two looks


def print_log(out: Path, key: str, *, follow: bool) -> None:
    """Prints a log; with `follow` what is added to it too, until nobody does the run any more.

    Raises:
        HubinitError: no log, or several, have such a name.
    """
    path = find_log(out, key)
    run = path.name.partition(".")[0]  # without the rank
    with path.open(encoding="utf-8", errors="replace", newline="") as log:
        rest = ""
        while True:
            over = not follow or holder_of(out, run) is None  # asked first: what was written before is read below
            *lines, rest = (rest + log.read()).split("\n")
            sys.stdout.writelines(f"{printable(one)}\n" for one in lines)
            if over:
                sys.stdout.write(printable(rest))
            sys.stdout.flush()
            if over:
                return
            time.sleep(EVERY)


def find_log(out: Path, key: str) -> Path:
    """The log whose name begins so; of several ranks of one run the first, unless another is named (`KEY.rank1`).

    Raises:
        HubinitError: there is none, or more than one run has one.
    """
    folder = out / "logs"
    found = sorted(folder.glob(f"{escape(key)}*.log")) if key else []
    runs = sorted({path.name.partition(".")[0] for path in found})
    if len(runs) > 1:
        more = ", …" if len(runs) > 5 else ""
        raise HubinitError(
            f"'{key}' is the beginning of {len(runs)} keys ({', '.join(runs[:5])}{more}); give more of it."
        )
    if not found:
        raise HubinitError(f"No log in {folder} begins with '{key}'; `hubinit status {out}` lists the runs.")
    return min(found, key=lambda path: (len(path.name), path.name))


def printable(line: str) -> str:
    """A line without secrets, and without characters that would move a terminal's cursor; of a progress bar its last state."""
    last = line.rstrip("\r").rpartition("\r")[2]
    return redact("".join(letter for letter in last if letter.isprintable() or letter == "\t"))
