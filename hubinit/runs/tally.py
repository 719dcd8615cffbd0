"""Where each run of a sweep is, from the events of the executor: how many are running, done, failed, left, and until when."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from threading import RLock
from typing import TYPE_CHECKING

from hubinit.runs.job import Busy, Died, Event, Finished, Loading, Progress, Started
from hubinit.runs.words import at_stage, cells_of, describe, duration

if TYPE_CHECKING:
    from hubinit.runs.plan import PlannedRun

DONE = ("ok", "partial")
NO_SUCCESS = ("failed", "diverged")
COUNTED = ("running", "elsewhere", "cached", *DONE, *NO_SUCCESS, "left")  # in the order in which they are said


@dataclass(frozen=True)
class Row:
    """A planned run as a table shows it.

    Attributes:
        key: of the run.
        cells: model, method, training data, learning rate, seed.
        state: when it was planned: `cached`, `evaluate` or `run`.
        before: when the result that was there then was written, in nanoseconds; kept for other processes only.
    """

    key: str
    cells: tuple[str, ...]
    state: str
    before: int | None = None

    @property
    def name(self) -> str:
        """The run in one short line."""
        return " ".join(cell for cell in self.cells if cell != "-")


@dataclass(frozen=True)
class Doing:
    """A run that is going on; times are seconds since the epoch."""

    key: str
    place: str
    since: float
    heard: float
    stage: str
    began: float  # this stage
    step: int = 0
    steps: int = 0
    loss: float | None = None
    task: str | None = None

    @property
    def words(self) -> str:
        """How far it is."""
        return at_stage(self.stage, self.step, self.steps, self.loss, self.task)

    def whole(self) -> float | None:
        """Seconds that it takes from its beginning to the end of its training, once a part of that is done."""
        if self.stage != "train" or not self.step:
            return None
        return self.began - self.since + (self.heard - self.began) * self.steps / self.step


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    key: str
    status: str
    reason: str | None
    seconds: float | None  # None: somebody else did it


def row_of(run: "PlannedRun") -> Row:
    """A planned run as a table shows it."""
    return Row(run.spec.key, tuple(cells_of(run.spec, run.group)), run.state)


class Tally:
    """All runs of a sweep, those of its later rounds included. It is called with each event."""

    def __init__(self, planned: "Iterable[PlannedRun]" = (), now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.lock = RLock()  # for who looks at it from another thread
        self.rows: dict[str, Row] = {}
        self.doing: dict[str, Doing] = {}
        self.ended: dict[str, Ended] = {}
        self.elsewhere: dict[str, str] = {}  # who does it
        self.at_once = 0  # runs, at most
        self.add(planned)

    def add(self, planned: "Iterable[PlannedRun]") -> None:
        """Takes in the runs of a round; one that is known keeps what is known of it, unless it is to be done once more."""
        for run in planned:
            row = row_of(run)
            if row.key in self.rows and row.state == "cached":
                continue
            self.rows[row.key] = row
            self.ended.pop(row.key, None)

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        if event.key in self.rows:
            with self.lock:
                self._take(event)

    def _take(self, event: Event) -> None:
        key, now = event.key, self.now()
        before = self.doing.pop(key, None)
        self.elsewhere.pop(key, None)
        if isinstance(event, Finished):
            seconds = now - before.since if before is not None and not event.elsewhere else None
            self.ended[key] = Ended(key, event.status, event.reason, seconds)
        elif isinstance(event, Died):
            self.ended[key] = Ended(key, "failed", event.reason, None)
        elif isinstance(event, Busy):
            self.elsewhere[key] = event.holder
        else:
            self.ended.pop(key, None)  # a failed one is tried again
            self.doing[key] = going_on(event, before, now)
            self.at_once = max(self.at_once, len(self.doing))

    def state(self, key: str) -> str:
        """One of `COUNTED`."""
        if key in self.doing:
            return "running"
        if key in self.elsewhere:
            return "elsewhere"
        if key in self.ended:
            return self.ended[key].status
        return "cached" if self.rows[key].state == "cached" else "left"

    def counts(self) -> dict[str, int]:
        """How many runs are in each state that occurs."""
        found = Counter(map(self.state, self.rows))
        return {state: found[state] for state in COUNTED if found[state]}

    def seconds_left(self) -> float | None:
        """How long it takes yet: what is left costs what the runs of its model took so far. None: nothing is known yet."""
        took: dict[tuple[str, str], list[float]] = {}
        for ended in self.ended.values():
            if ended.seconds is not None and ended.status in DONE:
                took.setdefault(self._kind(ended.key), []).append(ended.seconds)
        for one in self.doing.values():
            if (whole := one.whole()) is not None:
                took.setdefault(self._kind(one.key), []).append(whole)
        if not took:
            return None
        typical = {kind: fmean(seconds) for kind, seconds in took.items()}
        other = fmean(typical.values())
        now = self.now()
        rest = [
            max(0.0, (one.whole() or typical.get(self._kind(key), other)) - (now - one.since))
            for key, one in self.doing.items()
        ]
        waiting = [typical.get(self._kind(key), other) for key in self.rows if self.state(key) == "left"]
        return max([0.0, *rest, *waiting, (sum(waiting) + sum(rest)) / max(1, self.at_once)])

    def _kind(self, key: str) -> tuple[str, str]:
        """Runs that take about as long: of one model, trained or only scored."""
        return self.rows[key].cells[0], self.rows[key].state


def going_on(event: Started | Loading | Progress, before: Doing | None, now: float) -> Doing:
    """A run after an event that is not its last one."""
    place = event.place if isinstance(event, Started) else before.place if before is not None else "-"
    since = before.since if before is not None else now
    if not isinstance(event, Progress):
        stage = "begins" if isinstance(event, Started) else describe(event)
        return Doing(event.key, place, since, now, stage, now)
    same = before is not None and (before.stage, before.task) == (event.stage, event.task)
    began = before.began if before is not None and same else now
    return Doing(event.key, place, since, now, event.stage, began, event.step, event.steps, event.loss, event.task)


def say_counts(counts: dict[str, int], seconds_left: float | None = None) -> str:
    """`2 running, 12 done, 1 failed, 46 left, about 40 min to go`."""
    done = sum(counts.get(state, 0) for state in ("cached", *DONE))
    cached = f" ({counts['cached']} before)" if counts.get("cached") else ""
    words = [f"{counts.get('running', 0)} running", f"{done} done{cached}"]
    words += [f"{counts[state]} {state}" for state in ("elsewhere", *NO_SUCCESS) if counts.get(state)]
    words.append(f"{counts.get('left', 0)} left")
    if seconds_left is not None and (counts.get("left") or counts.get("running")):
        words.append(f"about {duration(seconds_left)} to go")
    return ", ".join(words)
