"""What protocols there are, and all that one pins."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubinit.cli.console import console, folding, say, say_json
from hubinit.cli.environment import connect
from hubinit.cli.options import Hub, Json

if TYPE_CHECKING:
    from hubinit.specs import Protocol

app = typer.Typer()
# What is said in sentences of its own, not among the settings.
SAID = {
    "description",
    "source",
    "recipe",
    "calibration",
    "methods",
    "per_method",
    "tasks",
    "revisions",
    "models",
    "assumed",
}


@app.command("protocols")
def list_protocols(
    name: Annotated[str | None, typer.Argument(help="Show one in full: a name, or a YAML file.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a protocol's file, for editors.")
    ] = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """List the protocols, or show all that one pins, what is assumed in it, and what this machine lacks for it.

    A protocol is what `--protocol` takes: tasks, data, targets, rank, learning rates, recipe and precision of a published
    comparison, with its source.

    Example: `hubinit protocols llm-adapters`
    """
    with connect(hub):
        from hubinit.runs.protocol import file_schema, protocol_names, read_protocol
        from hubinit.training.optimisers import OPTIMISERS

        if schema:
            say_json(file_schema())
            return
        if name is not None:
            show_protocol(name, json_)
            return
        protocols = {known: read_protocol(known) for known in protocol_names()}
        if json_:
            say_json({known: one.model_dump(mode="json") for known, one in protocols.items()})
            return
        table = folding("protocol", "what")
        for known, one in protocols.items():
            table.add_row(known, one.description)
        console.print(table)
        say("Sources, settings and what is assumed: hubinit protocols NAME")
        for optimiser in OPTIMISERS.values():
            say(f"--optimizers {optimiser.name}: {optimiser.title} ({optimiser.source})")


def show_protocol(name: str, as_json: bool) -> None:
    """Prints all of one protocol."""
    from hubinit.runs.needs import lacking
    from hubinit.runs.protocol import read_protocol

    protocol = read_protocol(name)
    lacks = lacking(protocol)
    if as_json:
        say_json(protocol.model_dump(mode="json") | {"scoring": scoring(protocol), "lacks": lacks})
        return
    say(f"{name}: {protocol.description}")
    say(f"source: {protocol.source}")
    for trained, scored in protocol.tasks.items():
        say(f"trains on {trained}, scored on {', '.join(scored or (trained,))}")
    for task, how in scoring(protocol).items():
        say(f"  {task}: {how}")
    say_parts("data sets at", (f"{dataset} {commit}" for dataset, commit in protocol.revisions.items()))
    if protocol.models:
        say(f"base models of the source: {', '.join(protocol.models)}")
    say(f"settings: {settings(protocol)}")
    say(f"recipe: {pairs(recipe_in_force(protocol))}")
    say(f"calibration: {pairs(protocol.calibration.model_dump(exclude={'samples'}, exclude_none=True))}")
    say_parts("options of methods", (f"{method}: {pairs(options)}" for method, options in protocol.methods.items()))
    say_parts("for one method", per_method(protocol))
    say_parts("assumed", protocol.assumed)
    say_parts("this machine lacks", lacks or ["nothing that was looked for"])


def say_parts(title: str, parts: "Iterator[str] | list[str] | tuple[str, ...]") -> None:
    """Prints a title and indented lines; nothing without lines."""
    for number, part in enumerate(parts):
        if number == 0:
            say(f"{title}:")
        say(f"  {part}")


def pairs(values: dict[str, Any]) -> str:
    """`rank 32, alpha 64`; lists with spaces."""
    return ", ".join(f"{field} {in_words(value)}" for field, value in values.items())


def in_words(value: Any) -> str:
    """A value without brackets and trailing zeros."""
    if isinstance(value, list | tuple):
        return " ".join(map(in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings(protocol: "Protocol") -> str:
    """Everything that is not said elsewhere, with the scale that rank and alpha give."""
    values = protocol.model_dump(exclude=SAID, exclude_none=True) | {"alpha": protocol.alpha_or_default}
    scale = protocol.alpha_or_default / (protocol.rank**0.5 if protocol.rslora else protocol.rank)
    return f"{pairs(values)} (s = {scale:.4g})"


def recipe_in_force(protocol: "Protocol") -> dict[str, Any]:
    """The recipe; of two settings for one thing the one that counts."""
    from hubinit.specs import OF_OPTIMISER

    values = protocol.recipe.model_dump(exclude={"optimiser", *OF_OPTIMISER}, exclude_none=True)
    beaten = {"epochs": "steps", "warmup_ratio": "warmup_steps"}
    return {field: value for field, value in values.items() if beaten.get(field) not in values}


def per_method(protocol: "Protocol") -> Iterator[str]:
    """What is different for one method, with its source."""
    for method, own in protocol.per_method.items():
        text = f"{method}: {pairs(own.model_dump(exclude={'source'}, exclude_none=True))}"
        yield f"{text} ({own.source})" if own.source else text


def scoring(protocol: "Protocol") -> dict[str, str]:
    """How each scored task generates and ranks, as its definition says; `hubinit tasks NAME` says all of it."""
    from dataclasses import asdict

    from hubinit.runs.needs import named
    from hubinit.tasks import get
    from hubinit.tasks.spec import Decoding

    scored = [
        name for trained, groups in protocol.tasks.items() for group in groups or (trained,) for name in named(group)
    ]
    found = {}
    for task in map(get, dict.fromkeys(scored)):
        plain = asdict(Decoding(max_new_tokens=0))
        decoding = asdict(task.generative.decoding) if task.generative and task.scorer != "accuracy" else {}
        changed = {field: value for field, value in decoding.items() if value != plain[field] and field != "stop"}
        rule = next((rule.source for rule in task.rules if rule.name == task.primary), "")
        parts = [pairs(changed), f"{task.primary.removesuffix(',none') or task.scorer}{f' ({rule})' if rule else ''}"]
        found[task.name] = "; ".join(part for part in parts if part)
    return found
