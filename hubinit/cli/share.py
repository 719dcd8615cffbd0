"""Commands around adapters on the Hub: push, pull, find, finish, sync."""

from pathlib import Path
from typing import Annotated, cast

import typer

from hubinit.cli.environment import connect
from hubinit.cli.options import Hub, Json, Public
from hubinit.errors import HubinitError
from hubinit.records import AdapterKind

app = typer.Typer()


@app.command()
def push(
    directory: Annotated[
        Path, typer.Argument(help="Folder of an adapter: `init/` or `adapter/` of a run, or any PEFT one.")
    ],
    repo: Annotated[str, typer.Argument(help="Repository, as namespace/name.")],
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it as a pull request, for repositories you may not write to.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another start point that the repository holds.")
    ] = False,
    public: Public = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Publish an adapter folder: checked, in one commit, with a card.

    Example: `hubinit push runs/runs/0123456789abcdef/adapter my-name/my-adapter`
    """
    with connect(hub):
        from hubinit.cli.sharing import run_push

        run_push(directory, repo, create_pr=create_pr, public=public, force=force, as_json=json_)


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Repository, as namespace/name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to copy it to. Default: it stays in the Hub's cache.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag. Default: the newest.")] = None,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Download an adapter that hubinit published, and check every file.

    Example: `hubinit pull my-name/llama3-8b-filet-init-r16-gsm8k-01234567 --out my-init`
    """
    with connect(hub):
        from hubinit.cli.sharing import run_pull

        run_pull(repo, out=out, revision=revision, as_json=json_)


@app.command()
def find(
    model: Annotated[str | None, typer.Option(help="Base model: alias or Hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the training data.")] = None,
    method: Annotated[str | None, typer.Option(help="Initialisation method.")] = None,
    kind: Annotated[str | None, typer.Option(help="`initialised` (to be trained) or `trained`.")] = None,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """List the adapters on the Hub that fit, with their scores.

    Example: `hubinit find --model llama3-8b --task gsm8k --method filet`
    """
    if kind not in (None, "initialised", "trained"):
        raise HubinitError(f"--kind wants 'initialised' or 'trained', not '{kind}'.")
    with connect(hub):
        from hubinit.cli.sharing import run_find

        run_find(model, task, method, kind=cast(AdapterKind | None, kind), as_json=json_)


@app.command()
def sync(hub: Hub = None, json_: Json = False) -> None:
    """Send what `--hub offline` has queued, in order, each publication exactly once.

    Example: `hubinit init llama3-8b --method pissa --push my-name --hub offline`, later `hubinit sync`
    """
    with connect(hub):
        from hubinit.cli.sharing import run_sync

        run_sync(as_json=json_)


@app.command()
def finish(
    adapter: Annotated[
        Path, typer.Argument(help="Folder of the trained adapter, as PEFT, the Trainer or TRL saved it.")
    ],
    init: Annotated[
        str, typer.Option(help="Folder or Hub repository of the start point that the training began with.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    push: Annotated[str | None, typer.Option(help="Repository, as namespace/name, to publish the result to.")] = None,
    public: Public = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Make an adapter that was trained from a start point with any trainer one plain LoRA on the untouched base.

    What a trainer saves after the two printed lines is right only on the base with the anchor merged in.

    Example: `hubinit finish outputs/checkpoint-500 --init my-name/llama3-8b-filet-init-r16-gsm8k-01234567 --out my-adapter`
    """
    with connect(hub):
        from hubinit.cli.sharing import run_finish

        run_finish(adapter, init, out, push=push, public=public, as_json=json_)
