"""The small files in which a sweep tells other processes, now and after its end, what it does: `progress/` of the store.

`NAME.json` is written anew as things happen: what is going on, and how many runs are in which state. `NAME.runs.json` lists the
runs and is written once for each round. Both only inform: what is done is decided by results and leases alone. A sweep that is
alive holds the lease NAME, so a killed one is known to be dead.
"""

import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubinit.paths import write_atomically
from hubinit.records import ResultStore
from hubinit.remote import redact
from hubinit.runs.job import LAST, Event, Progress
from hubinit.runs.lease import holder_of, leased
from hubinit.runs.tally import Doing, Row, Tally

if TYPE_CHECKING:
    from hubinit.runs.plan import PlannedRun

FOLDER = "progress"
RUNS = ".runs.json"
PAUSE = 1.0  # seconds between two steps of a training that are written


@dataclass(frozen=True)
class Snapshot:
    """What a sweep last wrote about itself; times are seconds since the epoch.

    Attributes:
        name: of its files and of its lease.
        command: what does the same again, but for `--force`.
        folder: where it was started.
        started: when.
        written: when this was.
        ended: whether it came to its end, rather than being stopped or killed.
        counts: runs by state, see `Tally`.
        seconds_left: estimated.
        doing: what is going on.
    """

    name: str
    command: str
    folder: str
    started: float
    written: float
    ended: bool
    counts: dict[str, int]
    seconds_left: float | None
    doing: tuple[Doing, ...]


class Recorder:
    """Keeps the tally of a sweep and writes it down; files that cannot be written cost nothing but their news."""

    def __init__(self, store: Path, name: str, tally: Tally) -> None:
        self.store, self.name, self.tally = store, name, tally
        self.before: dict[
            str, int | None
        ] = {}  # by key: when the result was written that was there when it was planned
        self.command, self.folder, self.started = same_command(), str(Path.cwd()), tally.now()
        self.written = 0.0

    def add(self, planned: "Iterable[PlannedRun]") -> None:
        """Takes in the runs of a round."""
        planned = list(planned)
        self.tally.add(planned)
        self.before |= {run.spec.key: written_at(self.store, run.spec.key) for run in planned if run.state != "cached"}
        rows = [[row.key, row.cells, row.state, self.before.get(row.key)] for row in self.tally.rows.values()]
        self._write(RUNS, rows)
        self.write()

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        before = self.tally.doing.get(event.key)
        self.tally(event)
        here = isinstance(event, Progress) and before is not None and before.stage == event.stage
        if isinstance(event, LAST) or not here or self.tally.now() - self.written >= PAUSE:
            self.write()

    def write(self, *, ended: bool = False) -> None:
        """Writes down what is going on."""
        self.written = self.tally.now()
        doing = tuple(self.tally.doing.values())
        counts, left = self.tally.counts(), self.tally.seconds_left()
        snapshot = Snapshot(
            self.name, self.command, self.folder, self.started, self.written, ended, counts, left, doing
        )
        self._write(".json", asdict(snapshot))

    def _write(self, ending: str, content: Any) -> None:
        path = self.store / FOLDER / f"{self.name}{ending}"
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(content, separators=(",", ":")))


@contextmanager
def recorded(store: Path) -> Iterator[Recorder]:
    """What records the sweeps of this process inside the block."""
    name = f"sweep-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}-{secrets.token_hex(2)}"
    with leased(store, name):
        recorder = Recorder(store, name, Tally())
        forget(store, recorder.command)
        try:
            yield recorder
        except BaseException:
            recorder.tally.doing.clear()  # its workers are ended with it
            recorder.write()
            raise
        recorder.write(ended=True)


def forget(store: Path, command: str) -> None:
    """Removes what dead sweeps wrote that nobody needs any more: this command takes their place, or they left nothing."""
    for snapshot in read_snapshots(store):
        over = snapshot.ended and not snapshot.counts.get("left")
        if (over or snapshot.command == command) and holder_of(store, snapshot.name) is None:
            for ending in (".json", RUNS):
                (store / FOLDER / f"{snapshot.name}{ending}").unlink(missing_ok=True)


def read_snapshots(store: Path) -> list[Snapshot]:
    """What sweeps of a store wrote last, the oldest sweep first; a file that cannot be read is passed over."""
    found = []
    for path in sorted((store / FOLDER).glob("*.json")):
        if path.name.endswith(RUNS):
            continue
        with suppress(OSError, ValueError, TypeError, KeyError):
            raw = json.loads(path.read_bytes())
            found.append(Snapshot(**raw | {"doing": tuple(Doing(**one) for one in raw["doing"])}))
    return found


def read_rows(store: Path, name: str) -> list[Row]:
    """The runs of a sweep; none where its list cannot be read."""
    try:
        rows: Sequence[Any] = json.loads((store / FOLDER / f"{name}{RUNS}").read_bytes())
        return [Row(key, tuple(cells), state, before) for key, cells, state, before in rows]
    except (OSError, ValueError, TypeError):
        return []


def written_at(store: Path, key: str) -> int | None:
    """When the result of a run was written, in nanoseconds; None without one."""
    try:
        return (ResultStore(store).folder(key) / "result.json").stat().st_mtime_ns
    except OSError:
        return None


def same_command() -> str:
    """The command that is running, to be typed again where it was typed: it goes on, and tries what failed once more."""
    program = Path(sys.argv[0]).name
    words = ["hubinit" if program == "__main__.py" else program, *(word for word in sys.argv[1:] if word != "--force")]
    return redact(shlex.join(words))
