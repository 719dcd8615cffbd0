"""`hubinit plot`: figures of a folder of results."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from hubinit.cli.console import say, say_json, warn
from hubinit.cli.options import Json
from hubinit.errors import HubinitError

app = typer.Typer()


@app.command()
def plot(
    runs: Annotated[Path, typer.Argument(help="Folder that `bench --out` or `train --out` wrote.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder of the figures. Default: `figures` in RUNS.")] = None,
    format_: Annotated[Literal["png", "svg"], typer.Option("--format", help="Of the files.")] = "png",
    json_: Json = False,
) -> None:
    """Draw learning curves, the sensitivity of each method to the learning rate, and how far its subspaces moved.

    Example: `hubinit plot runs --format svg`
    """
    if find_spec("matplotlib") is None:
        raise HubinitError("`hubinit plot` needs matplotlib: pip install 'hubinit[plot]'")
    from hubinit.leaderboard.plots import draw
    from hubinit.records import ResultStore

    results = list(ResultStore(runs).results(on_problem=lambda problem: warn(f"Left out: {problem}")))
    if not results:
        raise HubinitError(f"{runs.resolve()} holds no results; give the folder that `hubinit bench --out` wrote.")
    folder = out or runs / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in draw(results, warn):
        path = folder / f"{name}.{format_}"
        figure.savefig(path, dpi=160, metadata={"Date": None} if format_ == "svg" else None)
        files.append(str(path))
        if not json_:
            say(f"Figure: {path.resolve()}")
    if json_:
        say_json({"figures": files})
    if not files:
        raise HubinitError(f"{runs.resolve()} holds no run that was trained, so there is nothing to draw.")
