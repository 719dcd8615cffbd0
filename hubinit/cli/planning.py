"""What is said before the runs: the plan, what could not be checked, and the table of `--dry-run`."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import track
from rich.table import Table

from hubinit import methods
from hubinit.cli.console import console, errors, say, say_json, warn
from hubinit.cli.display import name, run_cells
from hubinit.cli.scoring import warn_unpinned
from hubinit.models.shapes import outline
from hubinit.records import ResultStore
from hubinit.runs.budget import by_priority, choose, spent_on
from hubinit.runs.costs import GIB, device_words
from hubinit.runs.estimate import Estimate, estimate
from hubinit.runs.matching import NOTICED
from hubinit.runs.memory import Memory, fits, memory_of, what_helps
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.preflight import check_runs
from hubinit.runs.words import duration
from hubinit.specs import DEFAULT_OPTIMISER, NO_ADAPTER, ModelSpec


def plan_aloud(
    request: Request, store: ResultStore, *, force: bool, dry_run: bool, what: str = "runs"
) -> tuple[list[PlannedRun], list[str]]:
    """The plan, and why models cannot be had; says these and what the runs are computed in on standard error."""
    lost: list[str] = []
    planned = plan(request, store, force=force, unasked=dry_run, on_lost=lost.append, on_note=warn)
    for reason in lost:
        warn(reason)
    warn_unpinned(evaluation for run in planned for evaluation in run.evaluations)
    check_runs((run.spec for run in planned if run.state == "run"), request.read_protocol().calibration_samples)
    types = {f"{run.spec.model.id} in {run.spec.model.stored_in}" for run in planned}
    todo = f", {sum(run.state != 'cached' for run in planned)} to do" if what == "runs" else ""
    warn(f"{len(planned)} {what}{todo}: {', '.join(sorted(types))}")
    return planned, lost


def print_plan(
    planned: Sequence[PlannedRun],
    store: ResultStore,
    as_json: bool,
    *,
    at_most: bool = False,
    budget: float | None = None,
) -> None:
    """Prints the table (or JSON) of `--dry-run`.

    Args:
        planned: the runs.
        store: of results.
        as_json: for scripts.
        at_most: which of the runs there will be is decided on the way.
        budget: seconds that the runs may take, where it is known beforehand which of them fit.
    """
    if not at_most:
        planned = by_priority(planned) if budget is not None else planned
    time = estimate(planned, store)
    counting = track(planned, "Counting memory", console=errors, disable=not errors.is_terminal, transient=True)
    memory = [memory_of(run.spec) for run in counting]
    for model in dict.fromkeys(run.spec.model for run in planned):
        warn_unread(model)
    rows = list(zip(planned, time.seconds, memory, to_lora(planned, memory), strict=True))
    if as_json:
        say_json([in_json(*row) for row in rows])
        return
    for name_of_model in dict.fromkeys(run.spec.model.id for run in planned):
        console.print(plan_table(name_of_model, [row for row in rows if row[0].spec.model.id == name_of_model]))
    todo = sum(run.state != "cached" for run in planned)
    total = sum(second or 0 for second in time.seconds)
    count = f"At most {len(planned)}" if at_most else str(len(planned))
    say(f"{count} runs, {len(planned) - todo} cached, about {duration(total)} on this machine.")
    if budget is not None and not at_most:
        say(in_budget(planned, time, budget))
    marks = "".join(times_lora(run, ratio) for run, _, _, ratio in rows)
    if marks:
        dealt = "; ~: at even ranks, which the method deals out after calibration" if "~" in marks else ""
        say(f"×: of what lora trains{dealt}.")
    if todo:
        say(f"Time: {time}.")
        say(f"Memory: what a run holds with texts of full length; {device_words()}.")
    for line in misfits(planned, memory):
        say(line)
    say("Next: the same command without --dry-run.")


def in_budget(planned: Sequence[PlannedRun], time: Estimate, budget: float) -> str:
    """How many runs fit into a budget; they are listed by priority."""
    waiting = [(run, one) for run, one in zip(planned, time.seconds, strict=True) if run.state != "cached"]
    cached = {run.spec.key: run.stored for run in planned if run.state == "cached" and run.stored is not None}
    left = budget - spent_on(planned, {key: stored.work.seconds for key, stored in cached.items()})
    fit = choose([run for run, _ in waiting], [one for _, one in waiting], left)
    last = f", the last of them {name(fit[-1])}" if fit else ""
    return (
        f"{len(fit)} of {len(waiting)} fit into {duration(budget)} by this estimate, in the order of the table{last}."
    )


def warn_unread(model: ModelSpec) -> None:
    """Says that shapes are those of the registry, where the model has a commit but its configuration cannot be read."""
    if model.revision is not None:
        _, reason = outline(model)
        if reason is not None:
            warn(f"Not checked: access to the files of {model.id}; its shapes are those that hubinit knows. {reason}")


def to_lora(planned: Sequence[PlannedRun], memory: Sequence[Memory | None]) -> list[float | None]:
    """What each run trains as a multiple of what plain LoRA trains on its model; None where that is not in the plan."""
    plain: dict[str, int] = {}
    for run, held in zip(planned, memory, strict=True):
        optimiser = run.spec.recipe.optimiser if run.spec.recipe is not None else None
        if run.spec.method.name == "lora" and optimiser == DEFAULT_OPTIMISER and held is not None:
            plain.setdefault(run.spec.model.key, held.trainable)
    lora = [plain.get(run.spec.model.key) for run in planned]
    return [one.trainable / count if one and count else None for one, count in zip(memory, lora, strict=True)]


def in_json(run: PlannedRun, seconds: float | None, memory: Memory | None, ratio: float | None) -> dict[str, Any]:
    """A planned run for scripts; bytes and seconds."""
    return {
        "key": run.spec.key,
        "state": run.state,
        "estimated_seconds": seconds,
        "trainable_parameters": memory.trainable if memory else None,
        "parameters_to_lora": ratio,
        "memory_bytes": memory.total if memory else None,
        "memory_parts": memory.parts() if memory else None,
        "fits": fits(memory) if memory else None,
        "spec": json.loads(run.spec.model_dump_json()),
        "evaluations": [json.loads(e.model_dump_json()) for e in run.evaluations],
    }


def plan_table(model: str, rows: Sequence[tuple[PlannedRun, float | None, Memory | None, float | None]]) -> Table:
    """The runs of a model: whether each is cached, what it trains, holds and takes."""
    table = Table(title=f"Planned runs: {model}", title_justify="left", box=None, pad_edge=False)
    for column in ("key", "method", "trains on", "lr", "seed", "evaluated on", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in {"key", "lr", "seed", "state"})
    for column in ("trainable", "memory", "about"):
        table.add_column(column, justify="right", no_wrap=True)
    for run, seconds, held, ratio in rows:
        trainable, size = (in_millions(held.trainable), f"{held.total / GIB:.1f} GiB") if held else ("-", "-")
        if held and run.state != "cached" and not fits(held):
            size = f"[red]{size}[/red]"
        about = "-" if seconds is None else duration(seconds)
        _, *cells, seed = run_cells(run)
        table.add_row(
            run.spec.key,
            *cells,
            seed.removeprefix("seed "),
            evaluated_on(run),
            run.state,
            trainable + times_lora(run, ratio),
            size,
            about,
        )
    return table


def times_lora(run: PlannedRun, ratio: float | None) -> str:
    """` ×1.06` where that is not 1; `~` where the method deals ranks out to layers, which it does after calibration."""
    if ratio is None:
        return ""
    uneven = run.spec.method.name not in NO_ADAPTER and methods.get(run.spec.method.name).scores is not None
    return f" {'~' if uneven else ''}×{ratio:.3g}" if uneven or abs(ratio - 1) > NOTICED else ""


def in_millions(parameters: int) -> str:
    """`41.9 M`."""
    return f"{parameters / 1e6:.3g} M" if parameters < 1e9 else f"{parameters / 1e9:.3g} B"


def evaluated_on(run: PlannedRun) -> str:
    """The tasks of a run's scores; `the same` where it trains on them."""
    scored = [evaluation.task for evaluation in run.evaluations]
    if run.spec.data is not None and scored == list(run.spec.data.tasks):
        return "the same"
    return ", ".join(scored) or "-"


def misfits(planned: Sequence[PlannedRun], memory: Sequence[Memory | None]) -> list[str]:
    """The runs that will not fit, one line for those of a model whose largest part is the same."""
    groups: dict[tuple[str, str, str], list[tuple[str, Memory]]] = {}
    for run, held in zip(planned, memory, strict=True):
        if run.state != "cached" and held is not None and not fits(held):
            group = (run.spec.model.id, next(iter(held.parts())), what_helps(held))
            groups.setdefault(group, []).append((run.spec.method.name, held))
    lines = []
    for (model, part, helps), runs in groups.items():
        names = ", ".join(dict.fromkeys(name for name, _ in runs))
        sizes = in_gib(held.total for _, held in runs)
        largest = in_gib(held.parts()[part] for _, held in runs)
        lines.append(
            f"Will not fit: {names} on {model} need {sizes}, of which {part} {largest}, and {device_words()}; {helps} may help."
        )
    return lines


def in_gib(sizes: Iterable[int]) -> str:
    """`38.5 GiB`, or from the smallest to the largest."""
    known = [f"{size / GIB:.1f}" for size in sorted(sizes)]
    return " to ".join(dict.fromkeys((known[0], known[-1]))) + " GiB"
