"""What there is to choose from: models, methods, tasks."""

from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubinit.cli.console import console, folding, say, say_json
from hubinit.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    for line in task_lines([task_facts(get(one)) for one in shown]):
        say(line)
    if name is not None:
        return
    notes = [f"suite {suite}: {', '.join(tasks)}" for suite, tasks in SUITES.items()]
    notes.append("lm-eval:NAME: any task, group or tag of lm-eval, e.g. lm-eval:mmlu; `lm-eval ls tasks` lists them")
    notes += [f"scorer {scorer.name}: {scorer.title}" for scorer in SCORERS.values()]
    for note in notes:
        say(fill(note, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))


def task_lines(rows: "Sequence[dict[str, Any]]") -> "Iterator[str]":
    """The list of tasks, two lines each: names stay whole on a terminal of 80 columns."""
    width = max(len(row["task"]) for row in rows)
    yield f"{'task':{width}}  {'train':>7}  {'test':>7}  {'metric':24}  scorer"
    for row in rows:
        train = "none" if not row["trains on"] else count_of(row["train rows"])
        test = "none" if not row["scored on"] else count_of(row["test rows"])
        yield f"{row['task']:{width}}  {train:>7}  {test:>7}  {row['metric'] or '-':24}  {row['scorer']}"
        needs = f"; needs {row['needs']}" if row["needs"] else ""
        yield f"  {row['data set'] or 'several data sets'}{needs}"
    splits = (("trains on", "train rows"), ("scored on", "test rows"))
    if any(row[split] and row[count] is None for row in rows for split, count in splits):
        yield "unknown: nobody has established how many rows the original has, so no other"
        yield "  number is refused"


def count_of(rows: int | None) -> str:
    """A number of rows."""
    return "unknown" if rows is None else f"{rows:,}"


def task_facts(task: "Task") -> dict[str, Any]:
    """What there is to say about a task, in the order in which it is said; None: nobody has pinned it."""
    from dataclasses import asdict

    from hubinit.scoring.evaluate import SCORERS
    from hubinit.tasks.facts import scored_rows, training_rows

    extras = [f"hubinit[{rule.extra}] for {rule.name}" for rule in task.rules if rule.extra]
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "data set": task.dataset + (f" ({task.config})" if task.config else ""),
        "trains on": task.train_split + (f" of {', '.join(task.train_configs)}" if task.train_configs else ""),
        "train rows": training_rows(task),
        "scored on": task.test_split or None,
        "test rows": scored_rows(task) if task.test_split else None,
        "metric": task.primary.removesuffix(",none"),
        "scorer": task.scorer,
        "how": SCORERS[task.scorer].title if task.primary else "is for training only",
        "definition": task.definition or None,
        "decoding": asdict(task.generative.decoding) if task.generative else None,
        "rules": {rule.name: rule.source for rule in task.rules},
        "source": task.source,
        "needs": "; ".join([*([task.needs] if task.needs else []), *extras]) or None,
    }
