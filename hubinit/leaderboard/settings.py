"""Which scored runs are compared in one table: those that were trained alike, each at its own learning rate.

A protocol may give a method its own alpha (MiLoRA's is the rank), and `fair` gives it the rank that trains about as many
parameters as plain LoRA. Such runs have no plain LoRA of their own rank and alpha to be compared to. They are in the table of
the one that they were made to be compared with: the same rank at another alpha, else as many trained parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hubinit.leaderboard.comparison import Row
from hubinit.specs import DEFAULT_OPTIMISER, NO_ADAPTER

BASELINE = "lora"
OWN_SEEDS = ["data_seed", "init_seed", "dropout_seed"]  # null: the run's
LEARNED = ["train_data", "train_samples", "validation_samples", "recipe", *OWN_SEEDS]  # what a linear probe has too
TRAINING = ["rank", "alpha", "rslora", "target_modules", *LEARNED]  # of one table
ALIKE = [name for name in TRAINING if name not in {"rank", "alpha"}]  # of a table and its guests
OWN_SIZE = ["own_rank", "own_alpha"]  # of a line, where they are not the table's
NO_GUEST: Row = dict.fromkeys(OWN_SIZE)


def settings(trained: list[Row]) -> list[list[Row]]:
    """The rows of each table, those of its own rank and alpha first; a guest says its own in `OWN_SIZE`.

    A linear probe and full fine-tuning have no rank or targets: they are in every table that learned as they did.

    Args:
        trained: rows of one evaluation, without the untrained base.
    """
    others = [row for row in trained if row["method"] in NO_ADAPTER]
    tables = list(_with_guests(group([row for row in trained if row["method"] not in NO_ADAPTER], TRAINING)))
    ways = {values(table[0], LEARNED) for table in tables}
    alone = group([row for row in others if values(row, LEARNED) not in ways], TRAINING)
    return [
        table + [row for row in others if values(row, LEARNED) == values(table[0], LEARNED)] for table in tables
    ] + alone


@dataclass(frozen=True)
class _Host:
    """A table with plain LoRA in it: its place among the tables, its runs, and what a guest is held to."""

    place: int
    runs: int
    first: Row
    alike: tuple[Any, ...]
    parameters: int  # of plain LoRA; 0 where nobody counted

    def distance(self, row: Row) -> float | None:
        """0 to a row of the same rank, else that of the trained parameters; None to one that was trained otherwise.

        Ranks are whole, so parameters can be made as near as half of one.
        """
        if values(row, ALIKE) != self.alike:
            return None
        if row["rank"] == self.first["rank"]:
            return 0.0
        if not row["trainable_parameters"] or not self.parameters:
            return None
        away: float = abs(row["trainable_parameters"] / self.parameters - 1)
        return away if away <= 0.5 / self.first["rank"] else None


def _with_guests(tables: list[list[Row]]) -> Iterator[list[Row]]:
    """The tables, where rows without a plain LoRA of their own are guests of the one that is nearest to them."""
    hosts = [_host(place, table) for place, table in enumerate(tables) if any(map(_is_plain, table))]
    guests: dict[int, list[Row]] = {host.place: [] for host in hosts}
    for place, table in enumerate(tables):
        if place in guests:
            continue
        stays = []
        for row in table:
            near = [(away, -host.runs, host.place) for host in hosts if (away := host.distance(row)) is not None]
            if near:
                host = min(near)[-1]
                guests[host].append(as_guest(row, tables[host][0]))
            else:
                stays.append(row)
        tables[place] = stays
    for place, table in enumerate(tables):
        if table:
            yield table + guests.get(place, [])


def _host(place: int, table: list[Row]) -> _Host:
    counts = [row["trainable_parameters"] or 0 for row in table if _is_plain(row)]
    return _Host(place, len(table), table[0], values(table[0], ALIKE), max(counts))


def _is_plain(row: Row) -> bool:
    return row["method"] == BASELINE and row["optimiser"] in {DEFAULT_OPTIMISER, None}


def as_guest(row: Row, host: Row) -> Row:
    """A row with the rank and alpha of the table that it is in, and its own beside them."""
    own = {f"own_{name}": row[name] if row[name] != host[name] else None for name in ("rank", "alpha")}
    return row | {name: host[name] for name in ("rank", "alpha")} | own


def as_trained(line: Row) -> Row:
    """A line with the rank and alpha that it was trained with."""
    own = {name: line[f"own_{name}"] for name in ("rank", "alpha") if line[f"own_{name}"] is not None}
    return line | own | NO_GUEST


def values(row: Row, columns: list[str]) -> tuple[Any, ...]:
    """What a row has in some columns."""
    return tuple(row[column] for column in columns)


def group(rows: list[Row], columns: list[str]) -> list[list[Row]]:
    """The rows with equal `columns` together, in the order of their values."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(values(row, columns), []).append(row)
    return [groups[found] for found in sorted(groups, key=lambda found: [(v is not None, v) for v in found])]
