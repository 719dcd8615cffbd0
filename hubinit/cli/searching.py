"""What bench prints about the search of a protocol such as `fair`."""

from statistics import median

from rich.table import Table

from hubinit.cli.console import console, say
from hubinit.cli.display import duration
from hubinit.runs.decisions import Decisions, FinalRun, MethodDecisions
from hubinit.runs.search import Searched
from hubinit.specs import DEFAULT_OPTIMISER


def print_decisions(searched: Searched) -> None:
    """Prints for each comparison the chosen rates, the parameters and what was dropped, and where all of it is stored."""
    for decisions, path in zip(searched.decisions, searched.files, strict=True):
        console.print(decision_table(decisions))
        if dropped := decisions.dropped():
            say("Dropped, and why:")
        for line in dropped:
            say(f"  {line}")
        given = f" of {duration(decisions.budget_seconds)}" if decisions.budget_seconds is not None else ""
        say(f"All decisions: {path.resolve()} ({duration(decisions.spent_seconds)}{given} spent)")


def decision_table(decisions: Decisions) -> Table:
    """One line for each method: its rate, the validation losses at it and at the default rate, and its parameters."""
    title = f"Search: {decisions.model}, {decisions.group}, rates {', '.join(f'{rate:g}' for rate in decisions.grid)}"
    table = Table(title=title, title_justify="left")
    for name in ("method", "chosen LR", "loss there", f"loss at {decisions.default_rate:g}", "tuned LR", "tried"):
        table.add_column(name, overflow="fold")
    table.add_column("trained parameters", justify="right")
    for one in decisions.methods:
        name = one.method if one.optimiser == DEFAULT_OPTIMISER else f"{one.method} ({one.optimiser})"
        ratio = f" ({one.parameters_to_lora:.2f} of lora)" if one.parameters_to_lora is not None else ""
        table.add_row(
            name,
            number(one.chosen_rate, "g"),
            final_losses(one, one.chosen_rate),
            final_losses(one, decisions.default_rate),
            number(one.tuned_rate, "g"),
            f"{len({tried.learning_rate for tried in one.tried})} rates, {len(one.tried)} runs"
            + (f", {len(one.added_rates)} beyond the grid" if one.added_rates else ""),
            (f"{one.trainable_parameters:,}" if one.trainable_parameters is not None else "–") + ratio,
        )
    return table


def final_losses(one: MethodDecisions, rate: float | None) -> str:
    """The median validation loss of the scored runs at a rate, and how many there are."""
    losses = [loss for final in one.finals if final.learning_rate == rate and (loss := usable_loss(final)) is not None]
    return f"{median(losses):.4f}, {len(losses)} seeds" if losses else "–"


def usable_loss(final: FinalRun) -> float | None:
    """The validation loss of a final run that ended well."""
    return final.validation_loss if final.status in {"ok", "partial"} else None


def number(value: float | None, style: str) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, style)
