"""`hubinit leaderboard`: the ranking of a folder of results, its files, and what follows from them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from hubinit.cli.console import console, say, say_json, warn
from hubinit.cli.environment import connect
from hubinit.cli.options import Hub, Json, Public, finite
from hubinit.errors import HubinitError

app = typer.Typer()
Sources = Annotated[
    list[str],
    typer.Argument(help="Folders of results (`bench --out`), or leaderboard data sets on the Hub (owner/name)."),
]
Board = Annotated[list[str], typer.Argument(help="A folder that `build` wrote, or what `build` takes.")]


@app.callback(invoke_without_command=True)
def leaderboard(
    context: typer.Context,
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
    if context.invoked_subcommand is not None:
        return
    with connect(hub):
        from huggingface_hub import HfApi

        from hubinit.hub.outbox import deliver_rows
        from hubinit.hub.tables import LEADERBOARD
        from hubinit.leaderboard.ranking import rank
        from hubinit.leaderboard.render import Terminal
        from hubinit.leaderboard.sources import items_of
        from hubinit.leaderboard.table import failures, table
        from hubinit.records import ResultStore

        results = list(ResultStore(out).results(on_problem=lambda problem: warn(f"Left out: {problem}")))
        if not results:
            raise HubinitError(f"{out.resolve()} holds no results; give the folder that `hubinit bench --out` wrote.")
        runs = table(results)
        ranking = rank(runs, items_of(runs, results, out, warn))
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


@app.command()
def build(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder for the files; a build into it again reads only what changed.")],
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Build the leaderboard's files: runs, summary, values by question (parquet), and what was left out with its reason.

    Example: `hubinit leaderboard build runs alice/hubinit-leaderboard --out board`
    """
    with connect(hub):
        from hubinit.cli.boards import run_build

        run_build(sources, out, as_json=json_)


@app.command()
def export(
    board: Board,
    form: Annotated[Literal["csv", "md", "json"], typer.Option("--format", help="What to write.")] = "csv",
    to: Annotated[Path | None, typer.Option(help="File. Default: standard output.")] = None,
    hub: Hub = None,
) -> None:
    """Write the summary as CSV, Markdown or JSON.

    Example: `hubinit leaderboard export board --format md --to board.md`
    """
    with connect(hub):
        from hubinit.cli.boards import run_export

        run_export(board, form, to)


@app.command()
def recommend(
    board: Board,
    model: Annotated[str, typer.Option(help="Alias (`llama3-8b`) or Hub id.")],
    task: Annotated[str, typer.Option(help="Task.")],
    max_seconds: Annotated[
        float | None, typer.Option(help="For initialisation and training, as they were measured.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory, e.g. 24GiB.")] = None,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Say which initialisation and learning rate to take, with the evidence and how sure it is.

    Example: `hubinit leaderboard recommend board --model smollm2-135m --task arc-easy --max-memory 4GiB`
    """
    seconds = None if max_seconds is None else finite(max_seconds, "--max-seconds")
    memory = None if max_memory is None else size(max_memory)
    with connect(hub):
        from hubinit.cli.boards import run_recommend

        run_recommend(board, model, task, seconds, memory, as_json=json_)


@app.command()
def push(
    to: Annotated[str, typer.Option(help="The leaderboard data set on the Hub (owner/name).")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="A folder that `build` wrote, or what `build` takes. Default: only what was merged there."),
    ] = None,
    public: Public = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Publish rows, summary and card by one commit, with the submissions that were merged into the data set.

    Example: `hubinit leaderboard push board --to alice/hubinit-leaderboard --public`
    """
    with connect(hub):
        from hubinit.cli.submissions import run_push

        run_push(sources or [], to, public=public, as_json=json_)


@app.command()
def validate(
    source: Annotated[
        str, typer.Argument(help="A folder of results, or a leaderboard data set on the Hub (owner/name).")
    ],
    pr: Annotated[int | None, typer.Option(min=1, help="Pull request. Default: what was merged.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Leaderboard that must not be contradicted. Default: the data set itself; of a folder none."),
    ] = None,
    spot_check: Annotated[
        int, typer.Option(min=0, help="Questions of each task that the adapter answers again on its base.")
    ] = 0,
    markdown: Annotated[Path | None, typer.Option(help="File for the verdict as a comment.")] = None,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Check results that somebody hands in: form, ranges, provenance, duplicates, adapters, and each stored answer again.

    Nothing of it is executed. Exits with 0 where all is accepted, with 3 where something is wrong.

    Example: `hubinit leaderboard validate alice/hubinit-leaderboard --pr 3 --markdown verdict.md`
    """
    with connect(hub):
        from hubinit.cli.submissions import run_validate

        run_validate(source, pr, against, spot_check, markdown, as_json=json_)


@app.command()
def compare(
    old: Annotated[
        str, typer.Argument(help="The last leaderboard: a folder that `build` wrote, or what `build` takes.")
    ],
    new: Annotated[str, typer.Argument(help="The refreshed one.")],
    markdown: Annotated[Path | None, typer.Option(help="File for the report, such as the text of an issue.")] = None,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Say what became worse beyond its noise between two leaderboards: scores, losses, time, memory; and what changed.

    Exits with 0 where nothing is worse, with 3 where something is.

    Example: `hubinit leaderboard compare alice/hubinit-leaderboard board --markdown regression.md`
    """
    with connect(hub):
        from hubinit.cli.submissions import run_compare

        run_compare(old, new, markdown, as_json=json_)


def size(text: str) -> float:
    """Bytes of a size such as 24GiB.

    Raises:
        HubinitError: it is not a size.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return float(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise HubinitError(f"--max-memory wants a size such as 24GiB, not '{text}'.") from None
