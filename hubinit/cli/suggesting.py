"""What `--suggest-lr` does and prints before a benchmark."""

from dataclasses import replace
from pathlib import Path

from hubinit.cli.console import warn
from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.fair import ladder, shift_to
from hubinit.runs.plan import Request, plan
from hubinit.runs.search import template_request
from hubinit.runs.suggest import move_grid, suggest_rates


def with_suggested_rates(request: Request, out: Path, *, dry_run: bool) -> Request:
    """The request with its learning rates moved to where the starts suggest; a dry run measures nothing and moves nothing.

    The rates of a search move for each method by itself, those of other protocols for all together.

    Raises:
        HubinitError: a rate of 0, several models or task groups, or no start with a suggestion.
    """
    protocol = request.read_protocol()
    rates = protocol.learning_rates
    if min(rates) <= 0:
        raise HubinitError("--suggest-lr moves the grid on a logarithmic axis, and 0 is not on it; leave rate 0 out.")
    if dry_run:
        warn("--suggest-lr measures first: the rates below are those before the grid moves.")
        return request
    store = ResultStore(out)
    if protocol.search is None:
        moved = move_grid(rates, list(suggest_rates(plan(request, store), store, warn).values()))
        warn(f"learning rates: {', '.join(f'{rate:g}' for rate in moved)}")
        return replace(request, learning_rates=moved)
    suggested = suggest_rates(plan(template_request(request, protocol), store), store, warn)
    shifts = {name: shift_to(rates, rate) for name, rate in suggested.items()}
    for name, shift in shifts.items():
        grid = ladder(rates, 0, shift)
        warn(f"{name}: the search begins with {grid[0]:g} to {grid[-1]:g}, {shift:+d} steps from the protocol's grid")
    return replace(request, shifts=shifts)
