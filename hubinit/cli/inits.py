"""Commands around start points: init, publish-inits."""

from pathlib import Path
from typing import Annotated

import typer

from hubinit.cli.environment import connect
from hubinit.cli.options import (
    AllowDrift,
    DryRun,
    Dtype,
    Hub,
    Json,
    Methods,
    Models,
    Protocol,
    Public,
    Samples,
    announce,
    finite,
    names,
    pairs,
    whole_numbers,
)

app = typer.Typer()

Seed = Annotated[
    int,
    typer.Option(
        min=0, help="Seed of random factors. (`--set calibration.seed=1` chooses other calibration examples.)"
    ),
]


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="Alias (`llama3-8b`), Hub id (`org/name`) or folder.")],
    method: Annotated[str, typer.Option(help="Initialisation method, see `hubinit methods`.")],
    task: Annotated[str | None, typer.Option(help="Task or suite whose training split to calibrate on.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your own data instead: a `.jsonl`, `.csv` (both also `.gz`) or `.parquet` file, or a Hub data set, with "
            "`prompt` and `completion`, or `messages` (chat template; the last answer counts), or `text`."
        ),
    ] = None,
    data_config: Annotated[str | None, typer.Option(help="Configuration of the Hub data set.")] = None,
    data_split: Annotated[str | None, typer.Option(help="Split of the Hub data set. Default: train.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names of your columns, e.g. prompt=question,completion=answer.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank. Default: 16.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha. Default: twice the rank.")] = None,
    seed: Seed = 0,
    calibration_samples: Samples = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens per example. Default: 512.")] = None,
    target_modules: Annotated[
        str | None, typer.Option(help="Comma-separated names of modules, e.g. q_proj,v_proj. Default: all-linear.")
    ] = None,
    suggest_lr: Annotated[
        bool,
        typer.Option(
            "--suggest-lr",
            help="Measure the curvature at the start on a few of the examples, and say which learning rate it suggests and "
            "how sure that is.",
        ),
    ] = False,
    dtype: Dtype = "auto",
    protocol: Protocol = "default",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the method as key=value, e.g. selection=M. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: one named after what is in it, or none with --push.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Repository (or namespace, which gives it a name) to publish it to.")
    ] = None,
    public: Public = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another start point that the repository holds.")
    ] = False,
    allow_drift: AllowDrift = False,
    hub: Hub = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Compute a pre-initialised adapter for your model and data: load it with plain PEFT and train.

    Example: `hubinit init llama3-8b --method filet --data my-chats.jsonl --rank 16 --push my-name`
    """
    announce(f"init: {method} for {model}")
    with connect(hub):
        from hubinit.cli.starting import run_init
        from hubinit.inits.plan import StartRequest

        request = StartRequest(
            model=model,
            method=method,
            task=task,
            data=data,
            data_config=data_config,
            data_split=data_split,
            columns=pairs(columns, "--columns") if columns is not None else {},
            rank=rank,
            alpha=None if alpha is None else finite(alpha, "--alpha"),
            seed=seed,
            calibration_samples=calibration_samples,
            max_length=max_length,
            target_modules=names(target_modules, "--target-modules") if target_modules is not None else (),
            dtype=dtype,
            protocol=protocol,
            overrides=tuple(set_ or ()),
            suggest_rate=suggest_lr,
        )
        run_init(request, out=out, push=push, public=public, force=force, dry_run=dry_run, as_json=json_)


@app.command("publish-inits")
def publish_inits(
    models: Models,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks or suites to calibrate on.")],
    push_to: Annotated[str, typer.Option(help="Namespace to publish the adapters and their catalogue under.")],
    methods: Methods = "all",
    ranks: Annotated[str, typer.Option(help="Comma-separated LoRA ranks.")] = "16",
    seed: Seed = 0,
    calibration_samples: Samples = None,
    dtype: Dtype = "auto",
    protocol: Protocol = "default",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. filet.selection=M or limit=100. Repeatable.")
    ] = None,
    public: Public = False,
    allow_drift: AllowDrift = False,
    hub: Hub = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Publish pre-initialised adapters for many models, methods, tasks and ranks, and a catalogue of them.

    What is made is kept, and what is published is not sent again: the same command goes on where it stopped.

    Example: `hubinit publish-inits --models llama3-8b --methods filet,lora-da --tasks gsm8k --ranks 8,16 --push-to my-name`
    """
    chosen = whole_numbers(ranks, "--ranks", 1)
    announce(f"publish-inits: {methods} for {models}")
    with connect(hub):
        from hubinit.cli.starting import run_publish_inits
        from hubinit.inits.matrix import MatrixRequest

        request = MatrixRequest(
            models=names(models, "--models"),
            methods=names(methods, "--methods"),
            tasks=names(tasks, "--tasks"),
            ranks=chosen,
            seed=seed,
            calibration_samples=calibration_samples,
            dtype=dtype,
            protocol=protocol,
            overrides=tuple(set_ or ()),
        )
        failed = run_publish_inits(request, push_to, public=public, dry_run=dry_run, as_json=json_)
    raise typer.Exit(1 if failed else 0)
