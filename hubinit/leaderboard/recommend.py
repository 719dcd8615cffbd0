"""Which initialisation and learning rate to take for a model, a task and a budget, with the evidence and how sure it is."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from hubinit.errors import HubinitError, nearest
from hubinit.leaderboard.ranking import EVALUATION
from hubinit.leaderboard.rows import printed
from hubinit.leaderboard.settings import BASELINE, TRAINING, as_trained
from hubinit.leaderboard.statistics import ALPHA
from hubinit.leaderboard.sweeps import records
from hubinit.specs import DEFAULT_OPTIMISER

Sure = Literal["high", "moderate", "low"]
SHOWN = [
    "method",
    "optimiser",
    "rank",
    "lr",
    "metric",
    "value",
    "seeds",
    "n",
    "delta",
    "delta_low",
    "delta_high",
    "p_corrected",
    "mark",
]
SHOWN += ["place", "best_share", "validation_loss", "loss_delta", "loss_low", "loss_high", "loss_p"]
SHOWN += ["init_seconds", "train_seconds", "peak_memory_bytes", "forgetting", "keys"]
Line = dict[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """What to take.

    Attributes:
        model: that the evidence is of.
        task: likewise.
        method: the initialisation.
        lr: the learning rate.
        rank: that it was measured at.
        optimiser: likewise.
        sure: `high`: its score differs from LoRA's, or everything else in the budget is worse, beyond chance. `moderate`: its
            validation loss is lower beyond chance. `low`: chance explains what was seen.
        reasons: in sentences.
        evidence: its line of the summary.
        alternatives: lines that share its place.
        left_out: method and optimiser ─► why the budget excludes it.
        reported: what papers report for this model and task, best first.
    """

    model: str
    task: str
    method: str
    lr: float | None
    rank: int | None
    optimiser: str | None
    sure: Sure
    reasons: tuple[str, ...]
    evidence: Line
    alternatives: tuple[Line, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reported: tuple[Line, ...] = ()


def recommend(
    summary: pd.DataFrame, model: str, task: str, seconds: float | None = None, memory: float | None = None
) -> Recommendation:
    """Recommends from the lines of one table: of this model and task the one with most runs, else of another model.

    Of the lines within the budget those with the best place are tied: chance explains their differences. Of them it takes the one
    with the lowest validation loss where that is below LoRA's beyond chance (corrected for the methods of the table), else the
    cheapest: what costs more has to show that it is worth it.

    Args:
        summary: as from `summarise`.
        model: Hub id.
        task: name.
        seconds: for initialisation and training, on the machine that measured.
        memory: bytes at most in use.

    Raises:
        HubinitError: the task was not measured, or nothing fits the budget.
    """
    of_task = summary[(summary["origin"] == "measured") & (summary["task"] == task)]
    if of_task["lr"].isna().all():
        known = summary[(summary["origin"] == "measured") & summary["lr"].notna()]["task"]
        raise HubinitError(f"Nothing was measured on '{task}': {nearest(task, sorted(set(known)))}")
    of_model = of_task[of_task["model"] == model]
    here = bool(of_model["lr"].notna().any())
    reasons = [] if here else [f"{model} was not measured on {task}, so this is what another model shows."]
    table = _largest_table(of_model if here else of_task)
    lines = [line for line in table if line["lr"] is not None]
    fitting, left_out = _within(lines, seconds, memory)
    if not fitting:
        raise HubinitError(
            f"No method fits this budget: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}."
        )
    first = min((line["place"] for line in fitting if line["place"] is not None), default=None)  # None: none was tested
    tied = [line for line in fitting if line["place"] == first]
    learnt = [line for line in tied if (line["loss_p"] or 1.0) < ALPHA and line["loss_delta"] < 0]
    chosen = min(learnt, key=lambda line: line["validation_loss"]) if learnt else min(tied, key=_cost)
    leader = next(line for line in table if line["place"] == first)  # that the others were tested against
    sure, why = _how_sure(chosen, fitting, tied, led=any(line is leader for line in fitting), learnt=bool(learnt))
    rates = {line["lr"] for line in lines} | {line["default_lr"] for line in lines}
    if len(rates) == 1:
        reasons.append("Only one learning rate was tried, so it is not a tuned one.")
    told = summary[(summary["origin"] == "reported") & (summary["model"] == model) & (summary["task"] == task)]
    best = told.sort_values("value", ascending=False, kind="stable").head(3)
    return Recommendation(
        model=chosen["model"],
        task=task,
        method=chosen["method"],
        lr=chosen["lr"],
        rank=as_trained(chosen)["rank"],
        optimiser=chosen["optimiser"],
        sure=sure,
        reasons=(*reasons, *why),
        evidence=_shown(chosen),
        alternatives=tuple(_shown(line) for line in tied if line is not chosen),
        left_out=left_out,
        reported=tuple(records(best[["method", "metric", "value", "std", "source"]])),
    )


def label(line: Line) -> str:
    """The method of a line, with an optimiser that is not the default."""
    optimiser = line["optimiser"]
    return f"{line['method']} ({optimiser})" if optimiser not in (None, DEFAULT_OPTIMISER) else str(line["method"])


def _largest_table(rows: pd.DataFrame) -> list[Line]:
    """All lines of the table with the most trained runs, best first; of equals the first."""
    tables = [table for _, table in rows.groupby([*EVALUATION, *TRAINING], dropna=False, sort=True)]
    return records(max(tables, key=lambda table: int(table.loc[table["lr"].notna(), "seeds"].sum())))


def _within(lines: list[Line], seconds: float | None, memory: float | None) -> tuple[list[Line], dict[str, str]]:
    """The lines that fit the budget, and why the others do not; a cost that nobody measured fits no budget."""
    fitting, left_out = [], {}
    for line in lines:
        needed, most = _cost(line), line["peak_memory_bytes"]
        if seconds is not None and not needed <= seconds:
            left_out[label(line)] = f"{needed:.0f} s" if math.isfinite(needed) else "its time is unknown"
        elif memory is not None and not (most is not None and most <= memory):
            left_out[label(line)] = f"{most / 2**30:.1f} GiB" if most is not None else "its memory is unknown"
        else:
            fitting.append(line)
    return fitting, left_out


def _how_sure(
    chosen: Line, fitting: list[Line], tied: list[Line], *, led: bool, learnt: bool
) -> tuple[Sure, list[str]]:
    runs = f"{chosen['seeds']} seed{'s' if chosen['seeds'] != 1 else ''} and {chosen['n']} test items"
    if chosen["mark"] == "better":
        low, high = (printed(chosen["metric"]) * chosen[end] for end in ("delta_low", "delta_high"))
        interval = f"{low:+.1f} to {high:+.1f} points"
        return "high", [f"Its score is higher than {BASELINE}'s beyond chance: {interval}, over {runs}."]
    if led and len(tied) == 1 and len(fitting) > 1:
        return "high", [f"Every other method in the budget scores lower beyond chance, over {runs}."]
    alike = f"{len(tied)} of {len(fitting)} methods in the budget score alike within chance, over {runs}."
    if chosen["place"] is None:
        alike = f"No score was tested: over {runs} nobody knows what chance explains. Two seeds or more would say it."
    elif not led:
        alike = f"What leads its place is not to be had here, so others may be as good within chance, over {runs}."
    if learnt:
        loss = f"its validation loss is below {BASELINE}'s by {-chosen['loss_high']:.4f} to {-chosen['loss_low']:.4f}"
        return "moderate", [alike, f"Of these, {loss} (95 % interval)."]
    return "low", [alike, "Of these it takes the least time; nothing shows that a costlier one is worth it."]


def _cost(line: Line) -> float:
    """Seconds of initialisation and training; ∞ where they are unknown."""
    known = [line["init_seconds"], line["train_seconds"]]
    return sum(seconds or 0.0 for seconds in known) if known[1] is not None else math.inf


def _shown(line: Line) -> Line:
    return {name: as_trained(line)[name] for name in SHOWN}
