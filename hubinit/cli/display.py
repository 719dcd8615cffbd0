"""What a person sees while runs go on: a live table on a terminal, plain lines elsewhere, always on standard error."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hubinit.runs.job import Busy, Died, Event, Finished, Loading, Progress, Started
from hubinit.runs.plan import PlannedRun
from hubinit.specs import DEFAULT_OPTIMISER

STYLES = {"ok": "green", "cached": "dim", "partial": "yellow", "failed": "red", "diverged": "red", "waiting": "dim"}


class SweepDisplay:
    """Shows the state of each run of a sweep from the events of the workers."""

    def __init__(self, planned: Sequence[PlannedRun], console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._runs = {run.spec.key: run for run in planned}
        self._states = {run.spec.key: "cached" if run.state == "cached" else "waiting" for run in planned}
        self._touched: dict[str, float] = {}  # when a run was last heard of
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
        self._started = time.monotonic()
        self._last_line: tuple[str, str] | None = None

    def __enter__(self) -> "SweepDisplay":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.console.is_terminal:
            self._live.__exit__(*error)

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        if event.key not in self._runs:
            return
        state = describe(event)
        self._states[event.key] = state
        self._touched[event.key] = time.monotonic()
        line = (event.key, event.stage if isinstance(event, Progress) else state)
        if not self.console.is_terminal and line != self._last_line:
            self._last_line = line
            self.console.print(self._clock(), name(self._runs[event.key]), state, markup=False, highlight=False)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"

    def _table(self) -> RenderableType:
        """What fits on the screen: the runs that are going on, then those that ended last, then those that wait."""
        table = Table(box=None, pad_edge=False, caption=self._counts(), caption_justify="left")
        for column in ("model", "method", "trains on", "lr", "seed", "state"):
            table.add_column(column)
        order = sorted(self._touched, key=lambda key: (ended(self._states[key]), -self._touched[key]))
        waiting = (key for key in self._runs if key not in self._touched and self._states[key] == "waiting")
        for key in islice(chain(order, waiting), max(3, self.console.height - 4)):
            state = self._states[key]
            style = next((STYLES[word] for word in STYLES if state.startswith(word)), "cyan")
            table.add_row(*run_cells(self._runs[key]), Text(state, style=style))
        return table

    def _counts(self) -> str:
        counts = Counter(state.split(":")[0] if ended(state) else "running" for state in self._states.values())
        return ", ".join(f"{count} {state}" for state, count in counts.items())


def ended(state: str) -> bool:
    """Whether nothing goes on in a run with this state (it may not have begun)."""
    return state.startswith(tuple(STYLES))


def describe(event: Event) -> str:
    """One event in a few words."""
    if isinstance(event, Started):
        return f"begins on {event.place}"
    if isinstance(event, Loading):
        return f"loading {event.model}"
    if isinstance(event, Finished):
        return event.status + (f": {event.reason}" if event.reason else "")
    if isinstance(event, Died):
        return event.reason
    if isinstance(event, Busy):
        return f"waiting: {event.holder} does it"
    words = event.stage
    if event.steps:
        words += f" {event.step}/{event.steps}"
    if event.loss is not None:
        words += f" loss {event.loss:.3f}"
    return words + (f" {event.task}" if event.task else "")


def name(run: PlannedRun) -> str:
    """A run in one short line."""
    return " ".join(cell for cell in run_cells(run) if cell != "-")


def run_cells(run: PlannedRun) -> list[str]:
    """Model, method, training data, learning rate and seed of a run, as table cells; an optimiser is named beside the method."""
    spec = run.spec
    trained = spec.method.name != "none" or spec.recipe is not None  # a linear probe is `none`, trained
    optimiser = spec.recipe.optimiser_label if spec.recipe is not None else DEFAULT_OPTIMISER
    return [
        spec.model.id.split("/")[-1],
        spec.method.name
        + (f" r{spec.rank}" if spec.rank else "")
        + (f" {optimiser}" if optimiser != DEFAULT_OPTIMISER else ""),
        run.group if trained else "-",
        f"{spec.learning_rate:g}" if trained else "-",
        f"seed {spec.seed}" if trained else "-",
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
