"""Commands around runs: bench, train, eval, show."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hubinit.cli.console import warn
from hubinit.cli.environment import connect
from hubinit.cli.options import (
    AllowCode,
    AllowDrift,
    Budget,
    CpusPerRun,
    Diagnostics,
    DryRun,
    Dtype,
    Engine,
    EvalTasks,
    Executor,
    Force,
    Fsdp,
    HangAfter,
    Hub,
    Json,
    JudgeModel,
    JudgeUrl,
    Optimizers,
    Out,
    Overrides,
    ProcessesPerRun,
    Protocol,
    Public,
    PushTo,
    Quantize,
    Rank,
    Rates,
    RayAddress,
    ReportTo,
    Retries,
    Samples,
    Seeds,
    Slurm,
    SuggestRate,
    SweepMethods,
    SweepModels,
    Tasks,
    Workers,
    WorkersPerDevice,
    learning_rate,
    names,
    numbers,
    pairs,
    read_duration,
    whole_numbers,
)
from hubinit.errors import HubinitError

app = typer.Typer()


@app.command()
def bench(
    models: SweepModels = None,
    methods: SweepMethods = None,
    tasks: Tasks = None,
    eval_tasks: EvalTasks = None,
    seeds: Seeds = None,
    lrs: Rates = None,
    suggest_lr: SuggestRate = False,
    optimizers: Optimizers = None,
    rank: Rank = None,
    dtype: Dtype = "auto",
    protocol: Protocol = "default",
    set_: Overrides = None,
    calibration_samples: Samples = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    budget: Budget = None,
    engine: Engine = "transformers",
    quantize: Quantize = None,
    processes_per_run: ProcessesPerRun = 1,
    fsdp: Fsdp = False,
    workers: Workers = None,
    workers_per_device: WorkersPerDevice = 1,
    executor: Executor = "local",
    ray_address: RayAddress = "auto",
    slurm: Slurm = None,
    cpus_per_run: CpusPerRun = 1,
    retries: Retries = 1,
    hang_after: HangAfter = 60.0,
    out: Out = Path("runs"),
    hub: Hub = None,
    push_to: PushTo = None,
    public: Public = False,
    dry_run: DryRun = False,
    force: Force = False,
    allow_drift: AllowDrift = False,
    allow_code: AllowCode = False,
    diagnostics: Diagnostics = False,
    report_to: ReportTo = None,
    json_: Json = False,
) -> None:
    """Fine-tune a model from every initialisation, score the results, publish them and rank them.

    Example: `hubinit bench --models llama3-8b --methods all --dry-run`
    """
    wanted: dict[str, Any] = {
        "models": () if models is None else names(models, "--models"),
        "methods": () if methods is None else names(methods, "--methods"),
        "tasks": None if tasks is None else names(tasks, "--tasks"),
        "eval_tasks": None if eval_tasks is None else names(eval_tasks, "--eval-tasks"),
        "seeds": None if seeds is None else whole_numbers(seeds, "--seeds", 0),
        "learning_rates": None
        if lrs is None
        else tuple(learning_rate(rate, "--lrs") for rate in numbers(lrs, "--lrs")),
        "optimisers": None if optimizers is None else names(optimizers, "--optimizers"),
    }
    seconds = None if budget is None else read_duration(budget, "--budget")
    trackers = names(report_to, "--report-to") if report_to is not None else ()
    warn("Planning: asking the Hub for models and data sets …")
    with connect(hub, judge_url):
        from hubinit.cli.running import run_bench
        from hubinit.runs.executors.spec import Places
        from hubinit.runs.plan import Request
        from hubinit.scoring.sandbox import allow_unprotected

        if allow_code:
            allow_unprotected()
        request = Request(
            **wanted,
            rank=rank,
            dtype=dtype,
            quantize=quantize,
            protocol=protocol,
            overrides=tuple(set_ or ()),
            calibration_samples=calibration_samples,
            judge=judge_model,
        )
        if suggest_lr:
            from hubinit.cli.suggesting import with_suggested_rates

            request = with_suggested_rates(request, out, dry_run=dry_run)
        places = Places(
            workers,
            workers_per_device,
            processes_per_run,
            fsdp,
            hang_after,
            executor=executor,
            cpus=cpus_per_run,
            address=ray_address,
            slurm={} if slurm is None else pairs(slurm, "--slurm"),
        )
        failed = run_bench(
            request,
            out,
            engine=engine,
            budget=seconds,
            places=places,
            retries=retries,
            push_to=push_to,
            public=public,
            dry_run=dry_run,
            force=force,
            diagnostics=diagnostics,
            report_to=trackers,
            as_json=json_,
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Alias (`llama3-8b`), Hub id (`org/name`) or folder.")],
    task: Annotated[str, typer.Option(help="Task or suite whose training split is used.")],
    method: Annotated[str, typer.Option(help="Initialisation method.")] = "lora",
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: the protocol's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Training seed. Default: the protocol's.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Optimizer (see `hubinit protocols`). Default: the protocol's.")
    ] = None,
    rank: Rank = None,
    dtype: Dtype = "auto",
    protocol: Protocol = "default",
    set_: Overrides = None,
    calibration_samples: Samples = None,
    quantize: Quantize = None,
    processes_per_run: ProcessesPerRun = 1,
    fsdp: Fsdp = False,
    retries: Retries = 1,
    hang_after: HangAfter = 60.0,
    out: Out = Path("runs"),
    hub: Hub = None,
    dry_run: DryRun = False,
    force: Force = False,
    allow_drift: AllowDrift = False,
    diagnostics: Diagnostics = False,
    report_to: ReportTo = None,
    json_: Json = False,
) -> None:
    """Initialise and fine-tune one adapter, without scoring it; `bench` with the same options finds it and scores it.

    Example: `hubinit train smollm2-135m --method filet --task arc-easy --set recipe.steps=40`
    """
    rate = None if lr is None else learning_rate(lr, "--lr")
    trackers = names(report_to, "--report-to") if report_to is not None else ()
    warn("Planning: asking the Hub for the model and the data sets …")
    with connect(hub):
        from hubinit.cli.running import run_train
        from hubinit.runs.executors.spec import Places
        from hubinit.runs.plan import Request

        request = Request(
            models=(model,),
            methods=(method,),
            tasks=(task,),
            seeds=None if seed is None else (seed,),
            learning_rates=None if rate is None else (rate,),
            optimisers=None if optimizer is None else (optimizer,),
            rank=rank,
            dtype=dtype,
            quantize=quantize,
            protocol=protocol,
            overrides=tuple(set_ or ()),
            calibration_samples=calibration_samples,
        )
        failed = run_train(
            request,
            out,
            places=Places(processes=processes_per_run, fsdp=fsdp, hang_after=hang_after),
            retries=retries,
            dry_run=dry_run,
            force=force,
            diagnostics=diagnostics,
            report_to=trackers,
            as_json=json_,
        )
    raise typer.Exit(1 if failed else 0)


@app.command("eval")
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="A base model, or an adapter (Hub id or folder), whose base is found by itself. Several are scored in turn; "
            "adapters of one base are swapped on it."
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks or suites.")] = "",
    outputs: Annotated[
        Path | None,
        typer.Option(
            help="Score the answers in a JSON Lines file instead of a model: `output`, and `id` or `document` unless the "
            "lines follow the test split."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first test examples of each task.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved examples in the prompt. Default: the task's, mostly 0.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per question, for pass@k.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per forward pass.")] = 16,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    trained_on: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated tasks or suites: their training examples among the questions are counted. Default: as "
            "the adapter says."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the scores and every answer, kept task by task; the same command goes on with what is missing."
        ),
    ] = None,
    dtype: Dtype = "auto",
    engine: Engine = "transformers",
    allow_drift: AllowDrift = False,
    allow_code: AllowCode = False,
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Score a base model or an adapter on tasks, or answers that another tool recorded.

    Example: `hubinit eval runs/runs/0123456789abcdef/adapter --tasks arc-easy,piqa --limit 200`
    """
    groups = names(tasks, "--tasks")
    if bool(targets) == (outputs is not None):
        raise HubinitError("Give either a model or adapter to score, or --outputs with recorded answers.")
    with connect(hub, judge_url):
        from hubinit.cli.scoring import run_eval
        from hubinit.scoring.sandbox import allow_unprotected
        from hubinit.specs import EvalSpec

        if allow_code:
            allow_unprotected()
        wanted = EvalSpec(task="", limit=limit, samples=samples, judge=judge_model)
        if shots is not None:
            wanted = wanted.model_copy(update={"shots": shots})
        failed = run_eval(
            tuple(dict.fromkeys(targets or ())),
            groups,
            wanted,
            outputs=outputs,
            batch_size=batch_size,
            dtype=dtype,
            engine=engine,
            training=names(trained_on, "--trained-on") if trained_on is not None else (),
            out=out,
            as_json=json_,
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder or the beginning of its key, a folder of `eval --out`, an adapter's folder or repo."
        ),
    ],
    task: Annotated[str | None, typer.Option(help="Task. Default: the only one.")] = None,
    metric: Annotated[str | None, typer.Option(help="What says right or wrong. Default: the ranking metric.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what RUN answered wrong.")] = False,
    compare: Annotated[str | None, typer.Option(help="Another run: only the items on which the two differ.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many items. Default: 20, with --json all.")] = None,
    out: Out = Path("runs"),
    hub: Hub = None,
    json_: Json = False,
) -> None:
    """Show the answers behind a score: what was asked, what was answered, and where two runs differ.

    Example: `hubinit show 01234567 --task arc-easy --compare 89abcdef`
    """
    with connect(hub):
        from hubinit.cli.answers import run_show

        run_show(run, task, metric=metric, wrong=wrong, limit=limit, compare=compare, out=out, as_json=json_)
