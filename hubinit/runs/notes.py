"""What is written of a run line by line, in its log and where there is not a terminal: each stage, now and then how far it is."""

import os
import socket
import time
from collections.abc import Callable
from datetime import datetime

from hubinit.runs.job import Event, Job, Progress
from hubinit.runs.words import cells_of, describe, group_of

PAUSE = 10.0  # seconds between two lines of a log on one stage


class Pace:
    """Says which events are worth a line: what is news, and every so many seconds the same stage."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.time) -> None:
        self.seconds, self.now = seconds, now
        self.said: dict[str, tuple[str, float]] = {}  # by key: the last one, and when that was

    def due(self, event: Event) -> bool:
        """Whether this one is."""
        what = f"{event.stage} {event.task}" if isinstance(event, Progress) else describe(event)
        said, when = self.said.get(event.key, ("", 0.0))
        if what == said and self.now() - when < self.seconds:
            return False
        self.said[event.key] = (what, self.now())
        return True


def noting(emit: Callable[[Event], None]) -> Callable[[Event], None]:
    """Passes events on, and prints those that are worth a line: into the log of the run, where a worker's output goes."""
    pace = Pace(PAUSE)

    def tell(event: Event) -> None:
        if pace.due(event):
            note(describe(event))
        emit(event)

    return tell


def note_beginning(job: Job) -> None:
    """Prints what run begins here, and who does it."""
    run = " ".join(cell for cell in cells_of(job.spec, group_of(job.spec)) if cell != "-")
    note(f"{run} begins, in process {os.getpid()} on {socket.gethostname()}")


def note(words: str) -> None:
    """Prints one line with its time."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {words}", flush=True)
