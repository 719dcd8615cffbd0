"""What there is to choose from: models, methods, tasks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubinit.cli.console import console, folding, say, say_json
from hubinit.cli.options import Json

if TYPE_CHECKING:
    from hubinit.tasks.spec import Task

app = typer.Typer()


@app.command("models")
def list_models(json_: Json = False) -> None:
    """List the short names of base models with their Hub ids; every other Hub id and every folder works as well."""
    from hubinit.models.names import registry

    if json_:
        say_json({alias: {"id": spec.id, "kind": spec.kind} for alias, spec in registry().items()})
        return
    table = folding("alias", "Hub id", "kind")
    for alias, spec in registry().items():
        table.add_row(alias, spec.id, spec.kind)
    console.print(table)


@app.command("methods")
def list_methods(json_: Json = False) -> None:
    """List the initialisation methods with their sources and options."""
    from hubinit.methods import METHODS

    if json_:
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
        say_json(rows)
        return
    table = folding("method", "source", "starts at", "needs data", "options")
    for name, method in METHODS.items():
        options = ", ".join(f"{field}={info.default}" for field, info in method.options.model_fields.items())
        needs = "yes" if method.statistics(method.options()) else "no"
        table.add_row(name, method.source, "the base" if method.start == "keep" else "base + BA", needs, options)
    console.print(table)
    say(
        "Besides: none, the base as it is; full, all weights trained (not part of 'all'); peft:<type>, any other of PEFT's."
    )


@app.command("tasks")
def list_tasks(
    name: Annotated[str | None, typer.Argument(help="Show one in full, or the tasks of a suite.")] = None,
    json_: Json = False,
) -> None:
    """List the tasks and suites: data set, rows of the two splits (where they are pinned), metric, rule, what else they need.

    Example: `hubinit tasks arc-easy`
    """
    from hubinit.scoring.evaluate import SCORERS
    from hubinit.tasks import SUITES, TASKS, get, members

    shown = members(name) if name is not None else tuple(TASKS)
    if json_:
        found = {one: task_facts(get(one)) for one in shown}
        say_json(found[name] if name in TASKS else {"tasks": found, "suites": dict(SUITES)})
        return
    if name in TASKS:
        for field, value in task_facts(TASKS[name]).items():
            parts = value.items() if isinstance(value, dict) else ()
            say(f"{field}:" if parts else f"{field}: {value if value not in (None, {}) else '-'}")
            for part, what in parts:
                say(f"  {part}: {what}")
        return
    table = folding("task", "data set", "train", "test", "metric", "scorer", "needs")
    for one in shown:
        facts = task_facts(get(one))
        counts = ("?" if facts[split] is None else f"{facts[split]:,}" for split in ("train rows", "test rows"))
        needs = facts["needs"] or "-"
        table.add_row(one, facts["data set"], *counts, facts["metric"], facts["scorer"], needs)
    console.print(table)
    for suite, tasks in SUITES.items() if name is None else ():
        say(f"suite {suite}: {', '.join(tasks)}")
    if name is None:
        say("lm-eval:NAME: any task, group or tag of lm-eval, e.g. lm-eval:mmlu; `lm-eval ls tasks` lists them")
    for scorer in SCORERS.values() if name is None else ():
        say(f"scorer {scorer.name}: {scorer.title}")


def task_facts(task: "Task") -> dict[str, Any]:
    """What there is to say about a task, in the order in which it is said; None: nobody has pinned it."""
    from dataclasses import asdict

    from hubinit.scoring.evaluate import SCORERS
    from hubinit.tasks.facts import known_rows, training_rows

    extras = [f"hubinit[{rule.extra}] for {rule.name}" for rule in task.rules if rule.extra]
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "data set": task.dataset + (f" ({task.config})" if task.config else ""),
        "trains on": task.train_split + (f" of {', '.join(task.train_configs)}" if task.train_configs else ""),
        "train rows": training_rows(task),
        "scored on": task.test_split or None,
        "test rows": known_rows(task, task.test_split),
        "metric": task.primary.removesuffix(",none"),
        "scorer": task.scorer,
        "how": SCORERS[task.scorer].title,
        "definition": task.definition or None,
        "decoding": asdict(task.generative.decoding) if task.generative else None,
        "rules": {rule.name: rule.source for rule in task.rules},
        "source": task.source,
        "needs": "; ".join([*([task.needs] if task.needs else []), *extras]) or None,
    }
