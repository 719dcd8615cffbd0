"""What a person sees while runs go on: a live table on a terminal, plain lines elsewhere, always on standard error."""

from collections.abc import Iterator
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


class SweepDisplay:
    """Shows a tally while its sweep goes on. It is called with each event, after the tally."""

    def __init__(self, tally: Tally, console: Console | None = None) -> None:
        self.tally = tally
        self.console = console or Console(stderr=True)
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
        self._started = tally.now()
        self._pace = Pace(tally.now)

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
        table, tally = run_table(), self.tally
        with tally.lock:  # rich asks from a thread of its own
            for cells in islice(self._lines(), max(3, self.console.height - 4)):
                table.add_row(*cells)
            spent = clock(tally.now() - self._started)
            return Group(table, Text(f"{spent}: {say_counts(tally.counts(), tally.seconds_left())}", style="bold"))

    def _lines(self) -> Iterator[list[RenderableType]]:
        tally, now = self.tally, self.tally.now()
        for doing in tally.doing.values():
            yield table_line(tally.rows[doing.key], "running", doing.place, doing.words, now - doing.since)
        for key, holder in tally.elsewhere.items():
            yield table_line(tally.rows[key], "elsewhere", "", f"{holder} does it")
        for ended in reversed(tally.ended.values()):
            yield table_line(
                tally.rows[ended.key], ended.status, "", say_end(ended.status, ended.reason), ended.seconds
            )
        for key, row in tally.rows.items():
            if tally.state(key) == "left":
                yield table_line(row, "left", "", "waits")


def run_table() -> Table:
    """An empty table of runs."""
    table = Table(box=None, pad_edge=False)
    for column in ("key", "model", "method", "trains on", "lr", "seed", "where", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    return table


def table_line(row: Row, state: str, place: str, words: str, seconds: float | None = None) -> list[RenderableType]:
    """The cells of one line of it; `state` decides the colour."""
    *cells, seed = row.cells
    texts = map(Text, (row.key[:8], *cells, seed.removeprefix("seed "), place))
    return [*texts, Text(words, style=STYLES.get(state, "dim")), Text(clock(seconds) if seconds is not None else "")]


def say_end(status: str, reason: str | None) -> str:
    """`failed: out of memory`."""
    return f"{status}: {reason}" if reason else status


def name(run: "PlannedRun") -> str:
    """A run in one short line."""
    return " ".join(cell for cell in run_cells(run) if cell != "-")


def run_cells(run: "PlannedRun") -> list[str]:
    """Model, method, training data, learning rate and seed of a run, as table cells."""
    return cells_of(run.spec, run.group)
