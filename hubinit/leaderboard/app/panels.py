"""What the pages beside the ranking show: plots of one table, two lines side by side, one line, and a recommendation."""

import json
import math
from itertools import islice
from typing import Any

from markupsafe import Markup

from hubinit.errors import HubinitError
from hubinit.leaderboard import versus
from hubinit.leaderboard.app import cells, commands, figures
from hubinit.leaderboard.app.data import Data
from hubinit.leaderboard.app.query import Query
from hubinit.leaderboard.comparison import Row
from hubinit.leaderboard.recommend import label, recommend
from hubinit.leaderboard.settings import NO_GUEST
from hubinit.leaderboard.tradeoffs import pareto

Context = dict[str, Any]
COSTS = {
    "seconds": "initialisation and training, seconds",
    "peak_memory_bytes": "peak memory, GiB",
    "forgetting": "forgetting, nats per token",
}


def tradeoffs(data: Data, query: Query) -> Context:
    """Score against a cost, with the front of what nothing beats."""
    table, choice = _table(data, query)
    cost = query.cost if query.cost in COSTS else "seconds"
    unit = 2**30 if cost == "peak_memory_bytes" else 1
    lines = [line for line in table if line[cost] is not None]
    points = [(line[cost] / unit, cells.scale(line) * line["value"]) for line in lines]
    front = pareto([(x, y) for x, y in points])
    series = [
        figures.Series(name, (x,), (y,), *_bar(line, y), link=query.link(view="line", line=line["id"]))
        for line, name, (x, y) in zip(lines, _names(lines), points, strict=True)
    ]
    drawn = figures.scatter(series, [points[one] for one in front], COSTS[cost], _axis(table))
    return choice | {
        "figure": Markup(drawn) if lines else None,  # noqa: S704 (matplotlib escapes names)
        "lines": [(line, x, one in front) for one, (line, (x, _)) in enumerate(zip(lines, points, strict=True))],
        "cost": cost,
        "costs": COSTS,
        "status": f"{len(lines)} methods, of which {len(front)} are not beaten",
    }


def rates(data: Data, query: Query) -> Context:
    """Score at each learning rate, the median over seeds with bars from the lowest to the highest."""
    table, choice = _table(data, query)
    lines = [line for line in table if line["lr"] is not None]
    sweeps = [data.runs.sweep(line) for line in lines]
    series = [
        figures.Series(
            name,
            tuple(rate.lr for rate in sweep),
            tuple(cells.scale(line) * rate.value for rate in sweep),
            tuple(cells.scale(line) * rate.low for rate in sweep),
            tuple(cells.scale(line) * rate.high for rate in sweep),
            link=query.link(view="line", line=line["id"]),
        )
        for line, name, sweep in zip(lines, _names(lines), sweeps, strict=True)
        if sweep
    ]
    drawn = figures.lines(series, "learning rate", _axis(table), logarithmic=True)
    return choice | {
        "figure": Markup(drawn) if series else None,  # noqa: S704
        "lines": list(zip(lines, sweeps, strict=True)),
        "status": f"{len(lines)} methods at {len({rate.lr for sweep in sweeps for rate in sweep})} learning rates",
    }


def curves(data: Data, query: Query) -> Context:
    """Training loss by step at the chosen learning rate: the first seed that has a curve."""
    table, choice = _table(data, query)
    found = [(line, data.runs.curves(line)) for line in table]
    found = [(line, of_seeds) for line, of_seeds in found if of_seeds]
    names = _names([line for line, _ in found])
    series = [
        figures.Series(
            name,
            tuple(map(float, of_seeds[0].step)),
            of_seeds[0].loss,
            link=query.link(view="line", line=line["id"]),
        )
        for name, (line, of_seeds) in zip(names, found, strict=True)
    ]
    return choice | {
        "figure": Markup(figures.lines(series, "step", "training loss")) if series else None,  # noqa: S704
        "lines": [(line, of_seeds[0]) for line, of_seeds in found],
        "status": f"{len(series)} methods with a curve",
    }


def compare(data: Data, query: Query) -> Context:
    """Two lines side by side."""
    a, b = data.by_id.get(query.a), data.by_id.get(query.b)
    measured = sorted(
        (line for lines in data.tables.values() for line in lines), key=lambda line: (line["model"], line["task"])
    )
    context: Context = {"a": a, "b": b, "choices": measured, "duels": (), "items": (), "counts": (), "status": ""}
    if (query.a and a is None) or (query.b and b is None):
        raise HubinitError("A line of this comparison is not in the leaderboard any more; pick two in the ranking.")
    if a is None or b is None:
        return context
    if "reported" in (a["origin"], b["origin"]):
        raise HubinitError("A line that a paper reports has no runs here to compare with; pick two measured ones.")
    items = data.values(versus.wanted(a, b, measured, data.runs))
    duels = versus.duels(a, b, measured, data.runs, items)
    places = data.places()
    differing = list(islice(versus.differing(a, b, data.runs, places.get), versus.MOST)) if _same_task(a, b) else []
    return context | {
        "duels": duels,
        "items": differing,
        "most": versus.MOST,
        "counts": versus.counts(a, b, data.runs, items) if _same_task(a, b) else None,
        "status": f"{len(duels)} tasks in common",
        "title": f"{a['method']} and {b['method']}",
    }


def line(data: Data, query: Query) -> Context:
    """One line: its numbers, its runs, where they come from, and how to make them again."""
    found = data.by_id.get(query.line)
    if found is None:
        raise HubinitError("This line is not in the leaderboard any more; its method may have a newer version.")
    runs = data.runs.behind(found)
    first = runs[0] if runs else None
    baseline = next((o for o in data.tables.get(found["table"], ()) if o["method"] == "lora" and o is not found), None)
    return {
        "line": found,
        "runs": runs,
        "sweep": data.runs.sweep(found) if runs else [],
        "baseline": baseline,
        "provenance": [(run["seed"], _pairs(run["versions"]), _pairs(run["hardware"]), run) for run in runs[:1]],
        "options": _pairs(found["options"]) | _pairs(found["recipe"]) | _pairs(found["calibration"]),
        "train": first and commands.train_command(first),
        "recorded": first and commands.recorded(first["command"]),
        "snippet": commands.loading_snippet(first) if first and first["adapter_sha256"] else None,
        "title": f"{found['method']} on {found['task']}",
        "status": f"{found['method']} on {found['task']}",
    }


def recommendation(data: Data, query: Query) -> Context:
    """A form, and what to take once a task was chosen."""
    measured = [line for lines in data.tables.values() for line in lines if line["lr"] is not None]
    largest = max(data.tables.values(), key=lambda lines: sum(line["seeds"] for line in lines), default=[])
    model = query.for_model or (largest[0]["model"] if largest else "")
    context: Context = {
        "models": sorted({line["model"] for line in data.lines}, key=str.casefold),
        "tasks": sorted({line["task"] for line in measured}, key=str.casefold),
        "model": model,
        "found": None,
        "problem": "",
        "status": "",
    }
    if not query.for_task:
        return context
    try:
        seconds, gib = (_positive(getattr(query, name), name) for name in ("seconds", "memory"))
        found = recommend(data.board.summary, model, query.for_task, seconds, gib and gib * 2**30)
    except HubinitError as error:
        return context | {"problem": str(error), "status": str(error)}
    told = f"{label(found.evidence)}, {found.sure} confidence"
    chosen = next(line for line in measured if line["keys"] == found.evidence["keys"] and line["task"] == found.task)
    return context | {"found": found, "chosen": chosen, "status": told}


def _positive(text: str, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise HubinitError(f"The budget's {name} want a number above 0, not '{text}'.")
    return value


def _table(data: Data, query: Query) -> tuple[list[Row], Context]:
    """The lines of the chosen table, or of the one with most runs that the filters leave, and the choice."""
    wanted = {line["table"] for line in data.chosen(query)}
    tables = {name: lines for name, lines in data.tables.items() if name in wanted or name == query.board}
    if not tables:
        raise HubinitError("No measured line passes the filters; take some away.")
    largest = max(tables, key=lambda name: sum(line["seeds"] for line in tables[name]))
    board = query.board if query.board in tables else largest
    return tables[board], {"tables": {name: _title(lines[0]) for name, lines in tables.items()}, "board": board}


def _title(line: Row) -> str:
    rank = f"rank {line['rank']}" if line["rank"] else ""
    return ", ".join(part for part in (line["model"], line["task"], rank, cells.setting(line | NO_GUEST)) if part)


def _names(lines: list[Row]) -> list[str]:
    """Method names, with what tells lines of one method apart."""
    several = [line["method"] for line in lines]
    return [
        line["method"]
        + (
            f" {line['optimiser'] or ''} {_short(line['options'])}".rstrip()
            if several.count(line["method"]) > 1
            else ""
        )
        for line in lines
    ]


def _short(options: str | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in _pairs(options).items())[:40]


def _pairs(text: str | None) -> dict[str, Any]:
    found = json.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def _bar(line: Row, y: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    spread = line["std"] if line["std"] is not None else line["stderr"]
    reach = cells.scale(line) * (spread or 0.0)
    return ((y - reach,), (y + reach,)) if reach else ((), ())


def _axis(table: list[Row]) -> str:
    return f"{table[0]['task']} {table[0]['metric']}" + (", %" if cells.scale(table[0]) > 1 else "")


def _same_task(a: Row, b: Row) -> bool:
    return all(a[name] == b[name] for name in ("task", "data_revision", "limit", "shots", "judge", "metric"))
