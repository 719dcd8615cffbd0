"""The command line: each command parses, calls one function, and prints. Hub libraries are imported inside commands only."""

import json
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from hubinit.cli import embedded, runs, sharing
from hubinit.errors import HubinitError

app = typer.Typer(
    name="hubinit",
    help="Compute, train, compare and publish LoRA initialisations on the Hugging Face Hub.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(runs.app)
app.add_typer(sharing.app)
app.add_typer(embedded.app, name="hub")


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


def main() -> None:
    """Entry point. A user's mistake ends in one sentence on standard error and exit code 1 (2 for wrong usage)."""
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell developers about their next version
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
