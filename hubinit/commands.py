"""What the commands do, without the parsing: the functions behind `hubinit.cli`, free to import everything."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hubinit.cli.display import SweepDisplay, duration, plan_table
from hubinit.records import ResultStore
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.sweep import sweep
from hubinit.specs import EvalSpec

console = Console()
errors = Console(stderr=True)


def say(line: object) -> None:
    """Prints one line as it is: no markup, no wrapping."""
    console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def warn(line: str) -> None:
    """Prints one line to standard error as it is."""
    errors.print(line, markup=False, highlight=False, soft_wrap=True)


def run_bench(
    request: Request, out: Path, *, push_to: str | None, public: bool, dry_run: bool, force: bool, as_json: bool
) -> int:
    """Plans, runs, publishes and prints the ranking.

    Returns:
        How many runs have no complete result, plus the publications that failed.
    """
    from hubinit.hub.delivery import Publisher
    from leaderboard import aggregate, render

    store = ResultStore(out)
    lost: list[str] = []
    planned = plan(request, store, force=force, on_lost=lost.append, on_note=warn)
    for reason in lost:
        warn(reason)
    if dry_run:
        print_plan(planned, store, as_json)
        return len(lost)
    groups = {run.spec.key: run.group for run in planned}
    publisher = Publisher(store, push_to, groups, private=not public) if push_to else None
    protocol = request.read_protocol()
    with SweepDisplay(planned, errors) as display:
        results = sweep(
            planned,
            store,
            eval_batch_size=protocol.eval_batch_size,
            force=force,
            on_event=display,
            on_result=publisher or (lambda result: None),
        )
    if publisher:
        publisher.finish(results, cached=[run.spec.key for run in planned if run.state == "cached"])
    runs = aggregate.table(results)
    ranking = aggregate.rank(runs)
    bad = [result for result in results if result.status != "ok"]
    if as_json:
        summary = {
            "results": [json.loads(result.model_dump_json()) for result in results],
            "ranking": json.loads(ranking.to_json(orient="records")),
            "published": publisher.published if publisher else [],
            "errors": [*lost, *(publisher.failures if publisher else [])],
        }
        print(json.dumps(summary, indent=1))
    else:
        console.print(render.terminal(ranking, aggregate.failures(runs)))
        console.print(f"Results: {out.resolve()}", markup=False, highlight=False, soft_wrap=True)
        for line in publisher.published if publisher else []:
            console.print(f"Published: {line}", markup=False, highlight=False, soft_wrap=True)
    for failure in publisher.failures if publisher else []:
        errors.print(failure, markup=False)
    return len(bad) + len(lost) + len(publisher.failures if publisher else [])


def run_train(request: Request, out: Path, *, dry_run: bool, force: bool, as_json: bool) -> int:
    """Trains the runs of a request without scoring them.

    Returns:
        How many of them have no trained adapter.
    """
    store = ResultStore(out)
    planned = [replace(run, evaluations=()) for run in plan(request, store, force=force)]
    if dry_run:
        print_plan(planned, store, as_json)
        return 0
    with SweepDisplay(planned, errors) as display:
        results = sweep(planned, store, force=force, on_event=display)
    if as_json:
        print(json.dumps([json.loads(result.model_dump_json()) for result in results], indent=1))
    for result in results:
        if result.status in {"failed", "diverged"}:
            errors.print(f"{result.key} {result.spec.method.name}: {result.status}: {result.reason}", markup=False)
        elif not as_json:
            folder = store.folder(result.key).resolve()
            seconds = sum(cost.seconds for cost in result.costs.values())
            console.print(f"Trained in {duration(seconds)}: {folder / 'adapter'}", markup=False, soft_wrap=True)
            console.print(f"Its starting point: {folder / 'init'}", markup=False, soft_wrap=True)
    return sum(result.status in {"failed", "diverged"} for result in results)


def run_eval(
    target: str, groups: Sequence[str], *, limit: int | None, shots: int, batch_size: int, as_json: bool
) -> None:
    """Scores a base model or an adapter in this process and prints the scores."""
    from rich.progress import Progress, TaskID

    from hubinit import tasks
    from hubinit.scoring.evaluate import evaluate_one
    from hubinit.scoring.target import load_target

    members = list(dict.fromkeys(name for group in groups for name in tasks.members(group)))
    evaluations = [EvalSpec(task=name, revision=tasks.pin(name), limit=limit, shots=shots) for name in members]
    model, processor = load_target(target, members[0])
    scores = []
    with Progress(console=errors, disable=not errors.is_terminal) as progress:
        for evaluation in evaluations:
            bar = progress.add_task(evaluation.task)

            def report(done: int, total: int, bar: TaskID = bar) -> None:
                progress.update(bar, completed=done, total=total)

            scores += evaluate_one(model, processor, evaluation, batch_size=batch_size, on_progress=report)
    if as_json:
        print(json.dumps([json.loads(score.model_dump_json()) for score in scores], indent=1))
        return
    table = Table("task", "metric", "value", "± stderr", "n", "invalid")
    for score in scores:
        cells = (
            f"{score.value:.4f}",
            "-" if score.stderr is None else f"{score.stderr:.4f}",
            str(score.n),
            "-" if score.invalid_rate is None else f"{score.invalid_rate:.1%}",
        )
        table.add_row(score.task, score.metric, *cells, style="bold" if score.primary else "")
    console.print(table)


def print_plan(planned: list[PlannedRun], store: ResultStore, as_json: bool) -> None:
    """Prints the table (or JSON) of `--dry-run`."""
    from hubinit.runs.estimate import estimate

    seconds = estimate(planned, store)
    if as_json:
        rows: list[dict[str, Any]] = [
            {
                "key": run.spec.key,
                "state": run.state,
                "estimated_seconds": about,
                "spec": json.loads(run.spec.model_dump_json()),
                "evaluations": [json.loads(e.model_dump_json()) for e in run.evaluations],
            }
            for run, about in zip(planned, seconds, strict=True)
        ]
        print(json.dumps(rows, indent=1))
        return
    console.print(plan_table(planned, seconds))
    todo = [run for run in planned if run.state != "cached"]
    total = sum(second or 0 for second in seconds)
    console.print(f"{len(planned)} runs, {len(planned) - len(todo)} cached, about {duration(total)} on this machine.")


def run_seed(root: Path, names: list[str] | None, *, directory: Path | None, only_list: bool) -> None:
    """Seeds the embedded Hub and says what is there."""
    from hubinit.devhub.seed import SEEDS, seed, seed_folder
    from hubinit.devhub.seed.wheels import megabytes
    from hubinit.devhub.store import Store

    if only_list:
        table = folding("name", "repository", "from", "licence", "size", "by default")
        for name, recipe in SEEDS.items():
            default = "on request" if recipe.on_request else "yes"
            table.add_row(
                name, recipe.repo_id, recipe.wheel.requirement, recipe.license, megabytes(recipe.size), default
            )
        console.print(table)
        return
    store = Store(root)

    def echo(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    seed_folder(store, directory, echo=echo) if directory else seed(store, names, echo=echo)
    console.print(f"Serve it with: hubinit hub serve --root {root}", markup=False, highlight=False)


def folding(*columns: str) -> Table:
    """A table whose cells break into lines instead of losing text on a narrow terminal."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_models(*, as_json: bool) -> None:
    """Prints the registry of base models."""
    from hubinit.models.names import registry

    if as_json:
        print(json.dumps({alias: {"id": spec.id, "kind": spec.kind} for alias, spec in registry().items()}, indent=1))
        return
    table = folding("alias", "Hub id", "kind")
    for alias, spec in registry().items():
        table.add_row(alias, spec.id, spec.kind)
    console.print(table)


def print_methods(*, as_json: bool) -> None:
    """Prints the registry of methods."""
    from hubinit.methods import METHODS

    if as_json:
        rows = {
            name: {
                "title": method.title,
                "source": method.source,
                "start": method.start,
                "options": {
                    field: {"default": info.default, "description": info.description}
                    for field, info in method.options.model_fields.items()
                },
            }
            for name, method in METHODS.items()
        }
        print(json.dumps(rows, indent=1, default=str))
        return
    table = folding("method", "source", "starts at", "needs data", "options")
    for name, method in METHODS.items():
        options = ", ".join(f"{field}={info.default}" for field, info in method.options.model_fields.items())
        needs = "yes" if method.statistics(method.options()) else "no"
        table.add_row(name, method.source, "the base" if method.start == "keep" else "base + BA", needs, options)
    console.print(table)


def print_tasks(*, as_json: bool) -> None:
    """Prints the registry of tasks and suites."""
    from hubinit.tasks import SUITES, TASKS

    if as_json:
        print(json.dumps({"tasks": {n: t.dataset for n, t in TASKS.items()}, "suites": dict(SUITES)}, indent=1))
        return
    table = folding("task", "kind", "data set", "primary metric")
    for name, task in TASKS.items():
        table.add_row(name, task.kind, task.dataset, task.primary)
    console.print(table)
    for name, members in SUITES.items():
        console.print(f"suite {name}: {', '.join(members)}")
