"""The query string of a page, checked: what is shown, of which lines, in which order and columns."""

from dataclasses import dataclass, fields
from typing import Literal, get_args
from urllib.parse import parse_qs, urlencode

View = Literal["ranking", "tradeoffs", "rates", "curves", "compare", "line", "recommend"]
VIEWS: tuple[View, ...] = get_args(View)
FILTERS = ("model", "task", "family", "method", "rank", "optimiser", "data_aware", "protocol")
CHOICES = {"view": VIEWS, "origin": ("reported",)}  # of names whose values are not free
LONGEST = 300  # characters of a value
MOST = 40  # values of one name


@dataclass(frozen=True)
class Query:
    """The state of a page.

    Attributes:
        view: the page.
        origin: `measured`, or `reported` by papers.
        model, task, family, method, rank, optimiser, data_aware, protocol: filters; "" lets everything through.
        search: words that a line's names hold.
        sort: a column; "" for the order of the tables and their places.
        down: highest first.
        columns: that are shown; () for the usual ones.
        page: of the ranking, from 1.
        pick: lines that are ticked to be compared.
        line: the line of a `line` page.
        a, b: the lines of a `compare` page.
        board: the table of a plot.
        cost: of a trade-off.
        for_model, for_task, seconds, memory: what a recommendation is for; memory in GiB.
        theme: Gradio's `light` or `dark`; "" as the system says.
    """

    view: View = "ranking"
    origin: str = ""
    model: str = ""
    task: str = ""
    family: str = ""
    method: str = ""
    rank: str = ""
    optimiser: str = ""
    data_aware: str = ""
    protocol: str = ""
    search: str = ""
    sort: str = ""
    down: str = ""
    columns: tuple[str, ...] = ()
    page: int = 1
    pick: tuple[str, ...] = ()
    line: str = ""
    a: str = ""
    b: str = ""
    board: str = ""
    cost: str = ""
    for_model: str = ""
    for_task: str = ""
    seconds: str = ""
    memory: str = ""
    theme: str = ""

    @classmethod
    def parse(cls, text: str) -> "Query":
        """The state that a query string holds; unknown names are left out, and values that cannot be are the usual ones."""
        try:
            given = parse_qs(text.lstrip("?")[:20_000], max_num_fields=500)
        except ValueError:  # more fields than that
            return cls()
        found: dict[str, object] = {}
        for field in fields(cls):
            values = [value[:LONGEST] for value in given.get(FORMS.get(field.name, field.name), ())][:MOST]
            if not values:
                continue
            if isinstance(field.default, tuple):
                found[field.name] = tuple(dict.fromkeys(values))
            elif field.name == "page":
                found["page"] = max(int(values[0]), 1) if values[0].isascii() and values[0].isdigit() else 1
            elif values[0] in CHOICES.get(field.name, values):
                found[field.name] = values[0]
        return cls(**found)  # type: ignore[arg-type]  # of the types of its defaults

    def link(self, **changes: object) -> str:
        """The address of this page with some changes; the page number starts again unless it is given."""
        state = {field.name: getattr(self, field.name) for field in fields(self)} | {"page": 1} | changes
        pairs = []
        for field in fields(self):
            value = state[field.name]
            if value != field.default:
                several = value if isinstance(value, tuple) else (value,)
                pairs += [(FORMS.get(field.name, field.name), str(one)) for one in several]
        return f"?{urlencode(pairs)}"

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set."""
        return {name: value for name in FILTERS if (value := getattr(self, name))}


FORMS = {"theme": "__theme"}  # Gradio's own name
