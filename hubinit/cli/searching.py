"""What bench prints about the search of a protocol such as `fair`."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev

from rich.table import Table

from hubinit.cli.console import console, say
from hubinit.leaderboard.rows import RATING
from hubinit.records import RunResult
from hubinit.runs.decisions import Decisions, FinalRun, MethodDecisions
from hubinit.runs.search import Searched
from hubinit.runs.words import duration


def print_decisions(searched: Searched, results: Sequence[RunResult]) -> None:
    """Prints for each comparison the chosen rates, the parameters and what was dropped, and where all of it is stored."""
    by_key = {result.key: result for result in results}
    for decisions, path in zip(searched.decisions, searched.files, strict=True):
        console.print(decision_table(decisions, by_key))
        if dropped := decisions.dropped():
            say("Dropped, and why:")
        for line in dropped:
            say(f"  {line}")
        given = f" of {duration(decisions.budget_seconds)}" if decisions.budget_seconds is not None else ""
        say(f"All decisions: {path.resolve()} ({duration(decisions.spent_seconds)}{given} spent)")


def decision_table(decisions: Decisions, results: Mapping[str, RunResult]) -> Table:
    """One line for each method: its rate, what it reached there and at the default rate, and its parameters."""
    table = Table(title=f"Search: {decisions.model}, {decisions.group}", title_justify="left")
    default = f"at {decisions.default_rate:g}"
    for heading in ("method", "LR", "tuned", "val. loss", default, f"val. loss {default}", "rates tried", "parameters"):
        table.add_column(heading, justify="left" if heading == "method" else "right", overflow="fold")
    for one in decisions.methods:
        about = [f"{one.parameters_to_lora:.2f} × lora"] if one.parameters_to_lora is not None else []
        about += [f"rank {one.rank}"] if one.rank not in (0, decisions.rank) else []
        ratio = f" ({', '.join(about)})" if about else ""
        added = f" ({len(one.added_rates)} beyond the grid)" if one.added_rates else ""
        cells = [cell for rate in (one.tuned_rate, decisions.default_rate) for cell in reached(one, rate, results)]
        table.add_row(
            one.name,
            "–" if one.tuned_rate is None else f"{one.tuned_rate:g}",
            *cells,
            f"{len({tried.learning_rate for tried in one.tried})}{added}",
            (f"{one.trainable_parameters:,}" if one.trainable_parameters is not None else "–") + ratio,
        )
    return table


def reached(one: MethodDecisions, rate: float | None, results: Mapping[str, RunResult]) -> tuple[str, str]:
    """The median score, its deviation and number of seeds, and the median validation loss of a method at a rate."""
    runs = [final for final in one.finals if final.learning_rate == rate and final.status in {"ok", "partial"}]
    scores = [score for final in runs if (score := score_of(final, results)) is not None]
    losses = [final.validation_loss for final in runs if final.validation_loss is not None]
    spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
    text = f"{median(scores):.1f}{spread} ({len(scores)} seeds)" if scores else "–"
    return text, f"{median(losses):.4f}" if losses else "–"


def score_of(final: FinalRun, results: Mapping[str, RunResult]) -> float | None:
    """The mean over the tasks of a run, in percent; a judge's ratings as they are."""
    scores = results[final.key].scores if final.key in results else ()
    values = [score.value if score.metric == RATING else 100 * score.value for score in scores if score.primary]
    return fmean(values) if values else None
