"""What a person sees while runs go on: a live table on a terminal, plain lines elsewhere, always on standard error."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hubinit.runs.job import Event, Finished
from hubinit.runs.notes import Pace
from hubinit.runs.tally import Row, Tally, say_counts
from hubinit.runs.words import cells_of, clock, describe

if TYPE_CHECKING:
    from hubinit.runs.plan import PlannedRun

STYLES = {"running": "cyan", "ok": "green", "partial": "yellow", "failed": "red", "diverged": "red"}
COLUMNS = ("model", "method", "trains on", "lr", "seed")  # the cells of a row
PAUSE = 60.0  # seconds between two lines on the same stage of a run, without a terminal


@dataclass(frozen=True)
class Line:
    """One line of a table of runs; `state` decides its colour."""

    row: Row
    state: str
    words: str
    place: str = ""
    seconds: float | None = None


class SweepDisplay:
    """Shows a tally while its sweep goes on. It is called with each event, after the tally."""

    def __init__(self, tally: Tally, console: Console | None = None) -> None:
        self.tally = tally
        self.console = console or Console(stderr=True)
        self._started = tally.now()
        self._pace = Pace(PAUSE, tally.now)
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)

    def __enter__(self) -> "SweepDisplay":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.console.is_terminal:
            self._live.__exit__(*error)

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        if self.console.is_terminal or event.key not in self.tally.rows or not self._pace.due(event):
            return
        words = describe(event)
        if isinstance(event, Finished):
            words += f" ({say_counts(self.tally.counts(), self.tally.seconds_left())})"
        spent = clock(self.tally.now() - self._started)
        line = f"{spent:>7} {event.key[:8]} {self.tally.rows[event.key].name} {words}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> RenderableType:
        """What fits on the screen: the runs that are going on, then those that ended last, then those that wait."""
        tally = self.tally
        with tally.lock:  # rich asks from a thread of its own
            lines = islice(self._lines(), max(3, self.console.height - 5))
            table = run_table(lines, tally.rows.values())
            spent = clock(tally.now() - self._started)
            return Group(table, Text(f"{spent}: {say_counts(tally.counts(), tally.seconds_left())}", style="bold"))

    def _lines(self) -> Iterator[Line]:
        tally, now = self.tally, self.tally.now()
        for one in tally.doing.values():
            yield Line(tally.rows[one.key], "running", one.words, one.place, now - one.since)
        for key, holder in tally.elsewhere.items():
            yield Line(tally.rows[key], "elsewhere", f"{holder} does it")
        for ended in reversed(tally.ended.values()):
            words = say_end(ended.status, ended.reason)
            yield Line(tally.rows[ended.key], ended.status, words, seconds=ended.seconds)
        for key, row in tally.rows.items():
            if tally.state(key) == "left":
                yield Line(row, "left", "waits")


def run_table(lines: Iterable[Line], rows: Iterable[Row], *, cut: bool = True) -> RenderableType:
    """A table of runs.

    Args:
        lines: what it shows.
        rows: all runs there are; what is the same in all of them is said once above the table.
        cut: give each run one line of the screen, rather than all words of its state.
    """
    values = list(zip(*(row.cells for row in rows), strict=True))
    varying = [place for place, found in enumerate(values) if len(set(found)) > 1]
    shared = {COLUMNS[place]: found[0] for place, found in enumerate(values) if place not in varying}
    same = ", ".join(f"lr {cell}" if name == "lr" else cell for name, cell in shared.items() if cell != "-")
    table = Table(box=None, pad_edge=False, expand=True, title=Text(same, style="dim"), title_justify="left")
    for name in ("key", *(COLUMNS[place] for place in varying), "where"):
        table.add_column(name, no_wrap=True)
    table.add_column("time", no_wrap=True, justify="right")
    table.add_column("state", no_wrap=cut, ratio=1)  # gets the room that the others leave
    for line in lines:
        cells = [Text(line.row.cells[place].removeprefix("seed ")) for place in varying]
        words = Text(line.words, style=STYLES.get(line.state, "dim"))
        time = "" if line.seconds is None else clock(line.seconds)
        table.add_row(Text(line.row.key[:8]), *cells, Text(line.place), Text(time), words)
    return table


def say_end(status: str, reason: str | None) -> str:
    """`failed: out of memory`."""
    return f"{status}: {reason}" if reason else status


def name(run: "PlannedRun") -> str:
    """A run in one short line."""
    return " ".join(cell for cell in run_cells(run) if cell != "-")


def run_cells(run: "PlannedRun") -> list[str]:
    """Model, method, training data, learning rate and seed of a run, as table cells."""
    return cells_of(run.spec, run.group)
