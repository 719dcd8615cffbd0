"""Pages: a function of the query and the data. Everything from results is escaped by the templates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from hubinit.errors import HubinitError
from hubinit.leaderboard.app import cells, panels
from hubinit.leaderboard.app.data import Data
from hubinit.leaderboard.app.query import FILTERS, Query, View
from hubinit.leaderboard.export import as_csv
from hubinit.leaderboard.recommend import label
from hubinit.text import one_line

PER_PAGE = 50
TITLES: dict[View, str] = {
    "ranking": "Ranking",
    "tradeoffs": "Trade-offs",
    "rates": "Learning rates",
    "curves": "Learning curves",
    "compare": "Compare",
    "recommend": "Recommendation",
}
LABELS = {
    "model": "Model",
    "task": "Task",
    "family": "Method family",
    "method": "Method",
    "rank": "Rank",
    "optimiser": "Optimiser",
    "data_aware": "Sees the data",
    "protocol": "Protocol",
}


@dataclass(frozen=True)
class Page:
    """A page as the browser gets it.

    Attributes:
        html: its content.
        query: its address, without what says nothing.
        title: of the window.
        status: what a screen reader is told.
    """

    html: str
    query: str
    title: str
    status: str


def page(data: Data, text: str) -> Page:
    """The page of a query string; what is not there, or cannot be, gives a page that says so."""
    query = Query.parse(text)
    try:
        context = VIEWS[query.view](data, query)
        template, status = f"{query.view}.html.j2", context.get("status", "")
    except HubinitError as error:
        context, template, status = {"message": str(error)}, "error.html.j2", str(error)
    title = context.get("title") or TITLES.get(query.view, "Line")
    html = ENVIRONMENT.get_template(template).render(query=query, data=data, titles=TITLES, **context)
    return Page(html, query.link(page=query.page), f"{one_line(title)} · hubinit leaderboard", status)


def csv(data: Data, text: str) -> str:
    """The lines of a ranking as CSV, all columns, in the order of the page."""
    query = Query.parse(text)
    return as_csv(pd.DataFrame(ordered(data.chosen(query), query), columns=list(data.board.summary.columns)))


def ordered(lines: list[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    """Lines in the order that was asked for; those without a value come last."""
    if query.sort not in cells.BY_NAME:
        return lines
    known = [line for line in lines if line[query.sort] is not None]
    numbers = all(isinstance(line[query.sort], int | float) for line in known)
    key: Callable[[dict[str, Any]], Any] = (
        (lambda line: line[query.sort]) if numbers else (lambda line: str(line[query.sort]).casefold())
    )
    return sorted(known, key=key, reverse=bool(query.down)) + [line for line in lines if line[query.sort] is None]


def sort_link(query: Query, column: cells.Column) -> str:
    """Where a heading leads: numbers begin with the highest, names with the first; then the other way; then as it was."""
    first = "1" if column.number else ""
    if query.sort != column.name:
        return query.link(sort=column.name, down=first)
    return query.link(down="" if first else "1") if query.down == first else query.link(sort="", down="")


def ranking(data: Data, query: Query) -> dict[str, Any]:
    """The table of lines with its filters."""
    lines = ordered(data.chosen(query), query)
    pages = max(-(-len(lines) // PER_PAGE), 1)
    number = min(query.page, pages)
    usual = cells.OF_REPORTS if query.origin == "reported" else cells.USUAL
    alike = {name: lines[0][name] for name in ("model", "task") if len({line[name] for line in lines}) == 1}
    wanted = query.columns or [name for name in usual if name not in alike]
    tables = len({line["table"] for line in lines})
    found = f"{len(lines)} {'lines' if len(lines) != 1 else 'line'}"
    return {
        "lines": lines[(number - 1) * PER_PAGE : number * PER_PAGE],
        "columns": [column for column in cells.COLUMNS if column.name in wanted],
        "alike": list(alike.values()),
        "all_columns": cells.COLUMNS,
        "filters": [(name, LABELS[name], data.options[query.origin or "measured"][name]) for name in FILTERS],
        "pages": pages,
        "number": number,
        "tables": tables,
        "picked": [data.by_id[name] for name in query.pick if name in data.by_id][:2],
        "status": f"{found} in {tables} {'tables' if tables != 1 else 'table'}"
        if query.origin != "reported"
        else f"{found} that papers report",
    }


VIEWS: dict[View, Callable[[Data, Query], dict[str, Any]]] = {
    "ranking": ranking,
    "tradeoffs": panels.tradeoffs,
    "rates": panels.rates,
    "curves": panels.curves,
    "compare": panels.compare,
    "line": panels.line,
    "recommend": panels.recommendation,
}
ENVIRONMENT = Environment(
    loader=PackageLoader("hubinit.leaderboard.app"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals |= {"cells": cells, "zip": zip, "sort_link": sort_link, "label": label}
