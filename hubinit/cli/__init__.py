"""The command line: each command parses, calls one function, and prints. Hub libraries are imported inside commands only."""

import errno
import json
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from hubinit.cli import devhub, doctor, inits, leaderboard, lists, plotting, protocols, runs, share, watching
from hubinit.errors import HubinitError, Interrupted

app = typer.Typer(
    name="hubinit",
    help="Compute, train, compare and publish LoRA initialisations on the Hugging Face Hub.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(runs.app)
app.add_typer(watching.app)
app.add_typer(inits.app)
app.add_typer(share.app)
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(plotting.app)
app.add_typer(lists.app)
app.add_typer(protocols.app)
app.add_typer(devhub.app, name="hub")
app.add_typer(doctor.app)


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
    warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # answers, beside an adapter
    try:
        app()
    except HubinitError as error:
        fail(str(error), 130 if isinstance(error, Interrupted) else 1)
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(disk_sentence(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fail("Out of memory: lower --batch-size, or recipe.micro_batch_size with --set, or use a smaller model.", 1)


def out_of_memory(error: Exception) -> bool:
    """Whether the memory of the machine or of its GPU ran out; torch's class is known by name, to start without torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)  # torch's allocator on the CPU
    )


def disk_sentence(error: OSError) -> str:
    """What went wrong with a file or the network, and what to do about it."""
    where = f" ({error.filename})" if error.filename else ""
    what = {
        errno.ENOSPC: "There is no space left on the disk; free some and run the same command again, finished work is kept",
        errno.EACCES: "There is no permission for a file or folder; choose another with --out, --root or HUBINIT_HOME",
        errno.EROFS: "The disk is read-only; choose another folder with --out, --root or HUBINIT_HOME",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{what}{where}."


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
