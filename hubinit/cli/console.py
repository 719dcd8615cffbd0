"""What commands print with: answers on standard output, everything else on standard error."""

import json

from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)


def say(line: object) -> None:
    """Prints one line as it is: no markup, no wrapping."""
    console.print(str(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def warn(line: str) -> None:
    """Prints one line to standard error as it is."""
    errors.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def folding(*columns: str) -> Table:
    """A table whose cells break into lines instead of losing text on a narrow terminal."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def say_json(value: object) -> None:
    """Prints a value as JSON for scripts; what JSON has no form for is printed as text."""
    print(json.dumps(value, indent=1, default=str))
