"""The ranking as people read it: Markdown for the dataset card, rich tables for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hubinit.leaderboard.boards import NOTHING, Board, Column, boards
from hubinit.text import escape, one_line

FAILURES_SHOWN = 30  # in a card; the data have them all
LABEL_WIDTH = 28  # of the names of the lines in a terminal; longer ones are folded


def markdown(ranking: pd.DataFrame, failures: pd.DataFrame | None = None) -> str:
    """The ranking as Markdown tables, every name escaped; `failures` as from `hubinit.leaderboard.table`."""
    parts = []
    for board in boards(ranking):
        header = [
            "method",
            *(f"{column.name} ({column.error})" if column.error else column.name for column in board.columns),
        ]
        body = [
            [label, *(f"**{escape(cell.text)}**" if cell.best else escape(cell.text) for cell in cells)]
            for label, *cells in zip(
                map(escape, board.labels), *(column.cells for column in board.columns), strict=True
            )
        ]
        parts.append(f"### {escape(board.title)}\n\n{markdown_table(header, body, right=True)}\n\n{escape(board.note)}")
    if failures is not None and len(failures):
        body = [[escape(value) for value in line] for line in _texts(failures.head(FAILURES_SHOWN))]
        parts.append(f"### Runs without a score\n\n{markdown_table(list(failures.columns), body)}")
        if len(failures) > FAILURES_SHOWN:
            parts.append(f"… and {len(failures) - FAILURES_SHOWN} more in the data.")
    return "\n\n".join(parts) if parts else "No runs yet."


@dataclass(frozen=True)
class Terminal:
    """The ranking as rich prints it: each board in blocks of as many columns as the width holds."""

    ranking: pd.DataFrame
    failures: pd.DataFrame | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Prints every board in blocks of columns that fit, then the failures."""
        found = list(boards(self.ranking))
        for board in found:
            yield Text(board.title, style="bold")
            for columns in blocks(board, options.max_width):
                yield _block(board, columns)
            yield Text(board.note, style="dim")
            yield Text()
        if self.failures is not None and len(self.failures):
            table = Table(title="Runs without a score", title_justify="left")
            for name in self.failures.columns:
                table.add_column(str(name), overflow="fold")
            for line in _texts(self.failures):
                table.add_row(*map(Text, line))
            yield table
        elif not found:
            yield Text("No runs yet.")


def blocks(board: Board, width: int) -> list[list[Column]]:
    """The columns of a board in blocks that are at most `width` wide with the names of the lines, their borders included."""
    label = min(LABEL_WIDTH, max(map(len, board.labels)))
    parts: list[list[Column]] = []
    room = 0
    for column in board.columns:
        needed = column.width + 3  # a border and a space on each side
        if not parts or needed > room:
            parts.append([])
            room = width - label - 4
        parts[-1].append(column)
        room -= needed
    return parts


def _block(board: Board, columns: Sequence[Column]) -> Table:
    table = Table()
    table.add_column("method", width=min(LABEL_WIDTH, max(len("method"), *map(len, board.labels))), overflow="fold")
    for column in columns:
        heading = Text(f"{column.name}\n{column.error}" if column.error else column.name)
        table.add_column(heading, justify="right", no_wrap=True, min_width=column.width)
    for label, *cells in zip(board.labels, *(column.cells for column in columns), strict=True):
        table.add_row(Text(label), *(Text(cell.text, style="bold green" if cell.best else "") for cell in cells))
    return table


def markdown_table(header: list[str], body: list[list[str]], right: bool = False) -> str:
    """One Markdown table; the cells of `body` are escaped already."""
    rule = ["---"] + ["---:" if right else "---"] * (len(header) - 1)
    head: list[str] = [escape(name) for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


def _texts(rows: pd.DataFrame) -> list[list[str]]:
    """The cells of a frame as texts, what is missing as a dash."""
    values: list[list[object]] = rows.astype(object).to_numpy().tolist()
    return [[NOTHING if pd.isna(value) else one_line(value) for value in line] for line in values]  # type: ignore[call-overload]
