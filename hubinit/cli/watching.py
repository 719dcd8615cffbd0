"""Commands that look at runs from another process: status, logs."""

from pathlib import Path
from typing import Annotated

import typer

from hubinit.cli.options import Json, Out

app = typer.Typer()


@app.command()
def status(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder that bench or train got as --out.")] = Path(
        "runs"
    ),
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking, until nothing is going on any more.")] = False,
    json_: Json = False,
) -> None:
    """Show what the runs of a folder are at: running, done, failed, left, and for how long yet; also of a sweep that was killed.

    Example: `hubinit status runs --watch`
    """
    from hubinit.cli.status import follow, in_json, show
    from hubinit.runs.status import read_status

    if watch:
        try:
            follow(runs, as_json=json_)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    elif json_:
        print(in_json(read_status(runs)))
    else:
        show(read_status(runs), runs)


@app.command()
def logs(
    key: Annotated[
        str, typer.Argument(help="The beginning of a run's key, as `hubinit status` shows it, or `worker`.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing, until nobody does this run.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Print the log of a run: its stages, and whatever the libraries had to say.

    Example: `hubinit logs 01234567 --follow`
    """
    from hubinit.cli.logs import print_log

    try:
        print_log(out, key, follow=follow)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
