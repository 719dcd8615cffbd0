"""`hubinit finish`: an adapter that was trained from a start point with any trainer, made right for the untouched base."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hubinit.cli.console import say
from hubinit.cli.environment import connected
from hubinit.cli.options import Hub, Json, Public

app = typer.Typer()


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
    with connected(hub):
        from huggingface_hub import HfApi

        from hubinit.hub.delivery import deliver
        from hubinit.hub.finish import finish
        from hubinit.hub.push import of_folder

        api = HfApi()
        saved = finish(adapter, init, out, api=api)
        done = deliver(api, of_folder(api, out, push), private=not public) if push else None
    if json_:
        print(json.dumps({**asdict(saved), "published": asdict(done) if done else None}, indent=1, default=str))
        return
    say(
        f"Exact on the untouched base: {out.resolve()} (rank {saved.rank}; vLLM needs --max-lora-rank {saved.rank} or more)"
    )
    say(done or f"Publish it with `hubinit push {out} NAMESPACE/NAME`.")
