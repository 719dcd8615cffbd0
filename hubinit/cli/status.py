"""How `hubinit status` shows what it found: tables for people, one object for scripts."""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from hubinit.cli.console import console, say
from hubinit.cli.display import Line, run_table, say_end
from hubinit.runs.status import RunStatus, Status, SweepStatus, read_status
from hubinit.runs.tally import NO_SUCCESS, say_counts
from hubinit.runs.words import clock, duration

EVERY = 2.0  # seconds between two looks
QUIET = 120.0  # seconds after which it is said how long ago something was heard
SHOWN = 20  # runs that are left; of more the number


def follow(folder: Path, *, as_json: bool, every: float = EVERY) -> None:
    """Shows a folder until nothing is going on there: on a terminal a table, else a line whenever one says something new.

    Raises:
        HubinitError: there is not such a folder.
    """
    found = read_status(folder)
    if console.is_terminal and not as_json:
        with Live(view(found, console.height), console=console, auto_refresh=False) as live:
            while found.going_on:
                time.sleep(every)
                found = read_status(folder)
                live.update(view(found, console.height), refresh=True)
        return
    before = ""
    while True:
        now = in_json(found, indent=None) if as_json else summary(found)
        if now != before:
            print(now, flush=True)
        if not found.going_on:
            return
        before = now
        time.sleep(every)
        found = read_status(folder)


def show(found: Status, folder: Path) -> None:
    """Prints everything for people, in as many lines as it takes."""
    now = time.time()
    say(summary(found))
    for sweep in found.sweeps:
        for one in sweep_lines(sweep, now):
            say(one)
    lines = list(run_lines(found, now, SHOWN))
    if lines:
        say("")
        console.print(run_table(lines, [run.row for run in found.runs], cut=False))
    if (left := found.counts.get("left", 0)) > SHOWN:
        say(f"… and {left - SHOWN} more that are left")
    if failed := [run for run in found.runs if run.state in NO_SUCCESS]:
        say(f"Read more: hubinit logs {failed[0].row.key[:8]} --out {shlex.quote(str(folder))}")


def view(found: Status, height: int) -> RenderableType:
    """What fits into so many lines of a screen, for people who watch."""
    now = time.time()
    parts: list[RenderableType] = [Text(summary(found), style="bold")]
    parts += [Text(one, no_wrap=True, overflow="ellipsis") for sweep in found.sweeps for one in sweep_lines(sweep, now)]
    lines = list(islice(run_lines(found, now), max(3, height - len(parts) - 4)))
    return Group(*parts, *([run_table(lines, [run.row for run in found.runs])] if lines else []))


def summary(found: Status) -> str:
    """`2 running, 12 done, 1 failed, 46 left, about 40 min to go`."""
    return say_counts(found.counts, found.seconds_left)


def sweep_lines(sweep: SweepStatus, now: float) -> Iterator[str]:
    """What there is to say about one sweep."""
    one = sweep.snapshot
    began = f"{datetime.fromtimestamp(one.started):%Y-%m-%d %H:%M}"
    if sweep.alive:
        quiet = now - one.written
        heard = f", last heard of {duration(quiet)} ago" if quiet > QUIET else ""
        yield f"Going on since {began} ({duration(now - one.started)}){heard}: {one.command}"
        return
    how = "ended" if one.ended else "was stopped or killed"
    yield f"The sweep of {began} {how}, and {sweep.left} of its runs are left. It goes on with, in {one.folder}:"
    yield f"  {one.command}"


def run_lines(found: Status, now: float, left: int | None = None) -> Iterator[Line]:
    """What is going on, then what failed or is partial, then what is left (so many of it); the rest is only counted."""
    by_state: dict[str, list[RunStatus]] = {}
    for run in found.runs:
        by_state.setdefault(run.state, []).append(run)
    for run in by_state.get("running", []):
        yield running_line(run, now)
    for state in (*NO_SUCCESS, "partial"):
        for run in by_state.get(state, []):
            yield Line(run.row, state, say_end(state, run.reason))
    for run in by_state.get("left", [])[:left]:
        yield Line(run.row, "left", "left")


def running_line(run: RunStatus, now: float) -> Line:
    """A run that is going on."""
    if run.doing is None:
        return Line(run.row, "running", f"{run.holder} does it")
    quiet = now - run.doing.heard
    heard = f" ({clock(quiet)} ago)" if quiet > QUIET else ""
    return Line(run.row, "running", run.doing.words + heard, run.doing.place, now - run.doing.since)


def in_json(found: Status, indent: int | None = 1) -> str:
    """Everything for scripts."""
    whole = {
        "counts": found.counts,
        "seconds_left": found.seconds_left,
        "going_on": found.going_on,
        "sweeps": [
            {
                "name": one.snapshot.name,
                "alive": one.alive,
                "ended": one.snapshot.ended,
                "left": one.left,
                "command": one.snapshot.command,
                "folder": one.snapshot.folder,
                "started": in_utc(one.snapshot.started),
                "written": in_utc(one.snapshot.written),
                "seconds_left": one.snapshot.seconds_left if one.alive else None,
            }
            for one in found.sweeps
        ],
        "runs": [run_in_json(run) for run in found.runs],
    }
    return json.dumps(whole, indent=indent)


def run_in_json(run: RunStatus) -> dict[str, object]:
    """One run for scripts."""
    model, method, data, rate, seed = run.row.cells
    doing = run.doing
    return {
        "key": run.row.key,
        "state": run.state,
        "model": model,
        "method": method,
        "trains_on": data,
        "learning_rate": float(rate) if rate != "-" else None,
        "seed": int(seed.removeprefix("seed ")) if seed != "-" else None,
        "reason": run.reason,
        "holder": asdict(run.holder) if run.holder is not None else None,
        "place": doing.place if doing else None,
        "stage": doing.stage if doing else None,
        "task": doing.task if doing else None,
        "step": doing.step if doing else None,
        "steps": doing.steps if doing else None,
        "loss": doing.loss if doing else None,
        "since": in_utc(doing.since) if doing else None,
    }


def in_utc(seconds: float) -> str:
    """A time since the epoch in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
