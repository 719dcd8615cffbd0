"""A leaderboard as the pages ask for it: its lines with what they are filtered by, and the runs behind them."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from hubinit.leaderboard.app.query import FILTERS, Query
from hubinit.leaderboard.build import CACHE, Leaderboard, open_items
from hubinit.leaderboard.comparison import Row
from hubinit.leaderboard.families import family_of
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.sources import read_cache
from hubinit.leaderboard.sweeps import BOARD, Runs, name_of, records

YES, NO = "yes", "no"
UNKNOWN = "–"


class Data:
    """Everything that the pages read; it does not change.

    Attributes:
        board: what was built.
        lines: of the summary, table by table, with `id`, `table`, `family`, `data_aware`, `protocol` and `seconds`.
        by_id: the same by name.
        runs: behind them.
        options: `measured` or `reported` ─► for each filter its values.
        tables: of measured lines: name ─► its lines.
    """

    def __init__(self, board: Leaderboard, folder: Path | None = None) -> None:
        """Prepares the data.

        Args:
            board: from `build` or `open_leaderboard`.
            folder: where its files lie, for the values of each question; None: they are not there.
        """
        self.board, self.folder = board, folder
        rows = records(board.runs)
        self.runs = Runs(rows)
        protocols = {row["key"]: protocol_of(row["command"]) for row in rows}
        self.lines = [_line(row, protocols) for row in records(board.summary)]
        self.by_id = {line["id"]: line for line in self.lines}
        self.options = {
            origin: {name: _values(self.lines, origin, name) for name in FILTERS} for origin in ("measured", "reported")
        }
        self.tables: dict[str, list[Row]] = {}
        for line in self.lines:
            if line["origin"] == "measured":
                self.tables.setdefault(line["table"], []).append(line)

    def chosen(self, query: Query) -> list[Row]:
        """The lines that the filters let through."""
        wanted, origin = query.filters, query.origin or "measured"
        words = query.search.casefold().split()
        return [
            line
            for line in self.lines
            if line["origin"] == origin
            and all(str(line[name]) == value for name, value in wanted.items())
            and all(word in line["words"] for word in words)
        ]

    def values(self, wanted: set[tuple[str, str]]) -> Items:
        """The values of each question of some runs, as far as the files hold them."""
        return open_items(self.folder, wanted) if self.folder else {}

    def places(self) -> dict[str, Path]:
        """Where item records lie on this machine, by their sha256; nothing of a leaderboard that was built elsewhere."""
        seen = read_cache(self.folder / CACHE).values() if self.folder else ()
        return {name: Path(place) for one in seen for name, place in one.records.items()}


def protocol_of(command: str | None) -> str | None:
    """The protocol that a run's command names; None where it names none."""
    found = re.search(r"--protocol[ =](\S+)", command or "")
    return found[1].strip("'\"") if found else None


def _line(row: Row, protocols: dict[str, str | None]) -> dict[str, Any]:
    measured = row["origin"] == "measured"
    named = Counter(protocols.get(key) for key in (row["keys"] or "").split())
    train = row["train_seconds"]
    line = row | {
        "id": name_of(row) if measured else name_of(row, ("source", "model", "task", "metric", "method")),
        "table": name_of(row, BOARD),
        "family": family_of(row["method"]),
        "data_aware": (NO if row["calibration_samples"] is None else YES) if measured else UNKNOWN,
        "protocol": max(named, key=lambda name: (named[name], name or "")) if named else None,
        "seconds": None if train is None else (row["init_seconds"] or 0.0) + train,
    }
    words = (line[name] for name in ("model", "task", "method", "optimiser", "family", "source", "protocol"))
    return line | {"words": " ".join(str(word) for word in words if word).casefold()}


def _values(lines: list[Row], origin: str, name: str) -> list[str]:
    """The values of a filter, those that are numbers in their order."""
    found = {line[name] for line in lines if line["origin"] == origin} - {None, UNKNOWN}
    return [str(one) for one in (sorted(found) if name == "rank" else sorted(map(str, found), key=str.casefold))]
