"""What `--suggest-lr` does and prints before a benchmark."""

from dataclasses import replace
from pathlib import Path

from hubinit.cli.console import warn
from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.plan import Request, plan
from hubinit.runs.suggest import move_grid, suggest_rates


def with_suggested_rates(request: Request, out: Path, *, dry_run: bool) -> Request:
    """The request with its learning rates moved to where the starts suggest; a dry run measures nothing and moves nothing.

    Raises:
        HubinitError: a rate of 0, several models or task groups, or no start with a suggestion.
    """
    rates = request.read_protocol().learning_rates
    if min(rates) <= 0:
        raise HubinitError("--suggest-lr moves the grid on a logarithmic axis, and 0 is not on it; leave rate 0 out.")
    if dry_run:
        warn("--suggest-lr measures first: the rates below are those before the grid moves.")
        return request
    store = ResultStore(out)
    moved = move_grid(rates, list(suggest_rates(plan(request, store), store, warn).values()))
    warn(f"learning rates: {', '.join(f'{rate:g}' for rate in moved)}")
    return replace(request, learning_rates=moved)
