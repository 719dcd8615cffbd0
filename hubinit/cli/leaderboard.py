"""`hubinit leaderboard`: the ranking of a folder of results."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hubinit.cli.console import console, say, say_json, warn
from hubinit.cli.environment import connect
from hubinit.cli.options import Hub, Json, Public
from hubinit.errors import HubinitError

app = typer.Typer()


@app.command()
def leaderboard(
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    push_to: Annotated[
        str | None,
        typer.Option(help="Namespace (or namespace/name) of the leaderboard data set to add the results to."),
    ] = None,
    public: Public = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Rank the results in a folder, and publish them when asked to.

    Example: `hubinit leaderboard --out runs --push-to my-name`
    """
    with connect(hub):
        from huggingface_hub import HfApi

        from hubinit.hub.outbox import deliver_rows
        from hubinit.hub.tables import LEADERBOARD
        from hubinit.leaderboard.ranking import rank
        from hubinit.leaderboard.render import Terminal
        from hubinit.leaderboard.table import failures, table
        from hubinit.records import ResultStore

        results = list(ResultStore(out).results(on_problem=lambda problem: warn(f"Left out: {problem}")))
        if not results:
            raise HubinitError(f"{out.resolve()} holds no results; give the folder that `hubinit bench --out` wrote.")
        runs = table(results)
        ranking = rank(runs)
        done = None
        if push_to is not None:
            repo_id = push_to if "/" in push_to else f"{push_to}/hubinit-leaderboard"
            done = deliver_rows(HfApi(), LEADERBOARD, results, repo_id, private=not public)
        if json_:
            summary = {
                "ranking": json.loads(ranking.to_json(orient="records")),
                "failures": json.loads(failures(runs).to_json(orient="records")),
                "published": asdict(done) if done else None,
            }
            say_json(summary)
            return
        console.print(Terminal(ranking, failures(runs)))
        if done:
            say(done)
