"""A leaderboard as CSV, Markdown or JSON."""

import json
from typing import Literal

import pandas as pd

from hubinit.leaderboard.build import Leaderboard, records
from hubinit.leaderboard.render import markdown, markdown_table
from hubinit.leaderboard.summary import as_ranking
from hubinit.leaderboard.table import failures
from hubinit.text import escape

Format = Literal["csv", "md", "json"]
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads a text that begins so as a formula


def export(board: Leaderboard, form: Format) -> str:
    """The summary as one text; JSON holds the rejected rows too.

    In CSV a text that a spreadsheet would run as a formula gets an apostrophe in front: others may have written it.
    """
    if form == "json":
        found = {"summary": records(board.summary), "rejected": [one.model_dump() for one in board.rejected]}
        return json.dumps(found, indent=1) + "\n"
    if form == "csv":
        return as_csv(board.summary)
    parts = [markdown(as_ranking(board.summary), failures(board.runs))]
    told = board.summary[
        (board.summary["origin"] == "reported") & board.summary["model"].isin(set(board.runs["model"]))
    ]
    if len(told):
        parts.append(f"### Reported by papers, not measured here\n\n{_reported(told)}")
    return "\n\n".join(parts) + "\n"


def as_csv(rows: pd.DataFrame) -> str:
    """Rows as CSV in which no cell is a formula."""
    return str(rows.map(_harmless).to_csv(index=False))


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(RISKY) else cell


def _reported(rows: pd.DataFrame) -> str:
    names = ["model", "task", "metric", "method", "value", "std", "source"]
    ordered = rows.sort_values(["model", "task", "metric", "value"], ascending=[True, True, True, False], kind="stable")
    body = [["" if pd.isna(cell) else escape(cell) for cell in row] for row in ordered[names].itertuples(index=False)]
    return markdown_table(names, body)
