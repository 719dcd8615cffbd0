"""What there is to choose from: models, methods, tasks, protocols."""

from typing import Annotated

import typer
import yaml

from hubinit.cli.console import console, folding, say, say_json
from hubinit.cli.options import Json

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
                "complete": method.complete,
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
    partial = [name for name, method in METHODS.items() if not method.complete]
    if partial:
        say(f"{', '.join(partial)}: their training-time parts are still missing, so 'all' leaves them out.")


@app.command("tasks")
def list_tasks(json_: Json = False) -> None:
    """List the tasks and suites with their data sets."""
    from hubinit.scoring.evaluate import SCORERS
    from hubinit.tasks import SUITES, TASKS, datasets

    if json_:
        say_json({"tasks": datasets(), "suites": dict(SUITES)})
        return
    table = folding("task", "kind", "data set", "scorer", "primary metric")
    for name, task in TASKS.items():
        table.add_row(name, task.kind, task.dataset, task.scorer, task.primary)
    console.print(table)
    for name, members in SUITES.items():
        say(f"suite {name}: {', '.join(members)}")
    say("lm-eval:NAME: any task, group or tag of lm-eval, e.g. lm-eval:mmlu; `lm-eval ls tasks` lists them")
    for scorer in SCORERS.values():
        say(f"scorer {scorer.name}: {scorer.title}")


@app.command("protocols")
def list_protocols(
    name: Annotated[str | None, typer.Argument(help="Show one: a name, or a YAML file.")] = None, json_: Json = False
) -> None:
    """List the protocols: the settings that a run takes from `--protocol`, each with its source.

    Example: `hubinit protocols default`
    """
    from hubinit.runs.protocol import protocol_names, read_protocol
    from hubinit.training.optimisers import OPTIMISERS

    if name is not None:
        settings = read_protocol(name).model_dump(mode="json")
        say_json(settings) if json_ else say(yaml.safe_dump(settings, sort_keys=False).rstrip())
        return
    protocols = {known: read_protocol(known) for known in protocol_names()}
    if json_:
        say_json({known: one.model_dump(mode="json") for known, one in protocols.items()})
        return
    table = folding("protocol", "what", "source")
    for known, one in protocols.items():
        table.add_row(known, one.description, one.source)
    console.print(table)
    for optimiser in OPTIMISERS.values():
        say(f"recipe.optimiser={optimiser.name}: {optimiser.title} ({optimiser.source})")
