"""Options that several commands share, and the reading of their values."""

import math
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hubinit.errors import HubinitError

_MODELS = "Comma-separated aliases (`llama3-8b`) or Hub ids (`org/name`)."
_METHODS = (
    "Comma-separated methods, `none` (the base; of an image model the head alone is trained), `all`, or `peft:<type>`."
)
Models = Annotated[str, typer.Option(help=_MODELS)]
Methods = Annotated[str, typer.Option(help=_METHODS)]
SweepModels = Annotated[str | None, typer.Option("--models", help=f"{_MODELS} Default: the protocol's.")]
SweepMethods = Annotated[str | None, typer.Option("--methods", help=f"{_METHODS} Default: the protocol's, else all.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated tasks or suites; each is trained on by itself. Default: the protocol's, else commonsense (image)."
    ),
]
EvalTasks = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated tasks or suites to score on. Default: those that are trained on, or the protocol's."
    ),
]
Engine = Annotated[
    Literal["transformers", "vllm"],
    typer.Option(help="What answers free-text tasks; vllm needs `pip install vllm` and a GPU, and searches no beams."),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(
        help="Type of the base's weights. Default: the protocol's, else bfloat16 where this machine is fast in it, else float32."
    ),
]
Quantize = Annotated[
    Literal["nf4"] | None,
    typer.Option(
        help="Hold the base's layers in 4 bits (QLoRA: NF4, twice quantised); needs `pip install bitsandbytes`. Default: not."
    ),
]
ProcessesPerRun = Annotated[
    int,
    typer.Option(
        min=1, help="Processes that train each run together, one GPU each; the results are those of one process."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Runs at once. Default: one for each GPU; without a GPU, one; on a cluster, as many as fit."
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        help="What does the runs: `local`, this machine; `ray` or `slurm`, a cluster whose nodes all see --out: `pip install "
        '"hubinit[ray]"` or `"hubinit[slurm]"`.'
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(help="HOST:PORT of the Ray cluster that this machine is a node of; or `auto`, which finds it."),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        help="Options of sbatch, e.g. partition=gpu,gres=gpu:1,time=8h. A task that reaches its time limit (default: 4h) is "
        "requeued, and goes on."
    ),
]
CpusPerRun = Annotated[int, typer.Option(min=1, help="Processor cores that a cluster sets aside for each run.")]
WorkersPerDevice = Annotated[int, typer.Option(min=1, help="Runs that may share one GPU, where they are small.")]
Retries = Annotated[
    int, typer.Option(min=0, help="How often a run that failed is tried again, when all others are done.")
]
HangAfter = Annotated[
    float,
    typer.Option(
        min=0, help="Minutes without a sign of life after which a run counts as hung, and is ended; 0: never."
    ),
]
Fsdp = Annotated[
    bool,
    typer.Option(
        "--fsdp",
        help="Shard the frozen base over the processes of each run while it trains: less memory per GPU, more traffic. With "
        "--processes-per-run.",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated training seeds, or a range `0-4`.")]
Rates = Annotated[str | None, typer.Option(help="Comma-separated learning rates; every method gets the same grid.")]
SuggestRate = Annotated[
    bool,
    typer.Option(
        "--suggest-lr",
        help="Move the grid to where the curvature at the methods' starts suggests: minutes. It stays the same for every method; "
        "only the search of a protocol such as `fair` begins for each where its own start suggests, and goes on from there.",
    ),
]
Optimizers = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated optimizers (see `hubinit protocols`); each trains every method. Default: adamw."
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="LoRA rank. Default: the protocol's. Under `fair` it is plain LoRA's, and a method of another size has the rank "
        "that trains about as much (`--set match_parameters=false`: one rank for all).",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        "--config",
        help="Name of a protocol (see `hubinit protocols`), or a YAML file, which may say a whole sweep: models, methods, tasks, "
        "seeds, and in `extends` the protocol that it changes.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. recipe.steps=40 or lora-da.preset=paper. Repeatable.")
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Calibration examples. Default: 256, or what the method's source used.")
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        help="Model that rates free answers (mt-bench): its name at --judge-url, or `local:` and a Hub id or folder."
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        help="OpenAI-compatible address of the judge, e.g. http://127.0.0.1:8000/v1. Its key: HUBINIT_JUDGE_KEY or "
        "OPENAI_API_KEY. Default: HUBINIT_JUDGE_URL."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of results, adapters, calibrations and logs.")]
Hub = Annotated[
    str | None, typer.Option(help="`embedded`, `offline`, or a URL. Default: HF_ENDPOINT, else huggingface.co.")
]
PushTo = Annotated[str | None, typer.Option(help="Namespace to publish adapters and the leaderboard data set under.")]
Public = Annotated[bool, typer.Option("--public", help="Publish public repositories instead of private ones.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done, and do nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Do finished runs again.")]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for all trainings and their scores, such as 90m, 8h or 2d; what does not fit is left out, and said. "
        "Default: the protocol's, else none."
    ),
]
Diagnostics = Annotated[
    bool,
    typer.Option(
        "--diagnostics",
        help="Of each run that trains now, measure also its first update against the full gradient, and what it forgets: about "
        "one more step, and two passes over 4,000 tokens.",
    ),
]
ReportTo = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated trackers that follow each training: trackio, wandb, tensorboard. Where they write is up to their "
        "own settings, e.g. WANDB_MODE=offline; tensorboard: a folder in --out."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output; progress goes to standard error.")]


def _allow_drift(wanted: bool) -> bool:
    if wanted:
        os.environ["HUBINIT_ALLOW_DRIFT"] = "1"  # hubinit.tasks.facts, also of the workers
    return wanted


AllowDrift = Annotated[
    bool,
    typer.Option(
        "--allow-drift",
        callback=_allow_drift,
        help="Use data sets whose rows or columns are not those of the original, with a warning that says what differs.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run code that a model wrote even where this machine cannot isolate it: with your rights."
    ),
]

LONGEST = 100_000  # numbers of a range


def announce(what: str) -> None:
    """Says at once that a command has begun: what it imports takes seconds."""
    print(f"hubinit {what}", file=sys.stderr, flush=True)


def names(text: str, option: str) -> tuple[str, ...]:
    """A comma-separated list of names, without repetitions.

    Raises:
        HubinitError: it is empty.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise HubinitError(f"{option} got an empty list; give at least one name.")
    return found


def pairs(text: str, option: str) -> dict[str, str]:
    """A comma-separated list of `name=value`.

    Raises:
        HubinitError: something else.
    """
    found: dict[str, str] = {}
    for part in names(text, option):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not (name and separator and value):
            raise HubinitError(f"{option} wants pairs such as prompt=question,completion=answer, not '{part}'.")
        found[name] = value
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """A comma-separated list of finite numbers from 0; `a-b` is a range of whole numbers.

    Raises:
        HubinitError: something else.
    """
    found: list[float] = []
    for part in names(text, option):
        first, dash, last = part.partition("-")
        try:
            if dash and first.isdigit() and last.isdigit():
                if int(first) > int(last):
                    raise HubinitError(f"{option} wants a range from low to high, not '{part}'.")
                if int(last) - int(first) >= LONGEST:
                    raise HubinitError(f"{option} takes at most {LONGEST:,} numbers, and '{part}' is more.")
                found += range(int(first), int(last) + 1)
            else:
                found.append(finite(float(part), option))
        except ValueError:
            raise HubinitError(f"{option} wants numbers separated by commas; '{part}' is not one.") from None
    return tuple(dict.fromkeys(found))


def whole_numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """A comma-separated list of whole numbers from `least`; `a-b` is a range.

    Raises:
        HubinitError: something else.
    """
    found = numbers(text, option)
    for number in found:
        if number != int(number) or number < least:
            raise HubinitError(f"{option} wants whole numbers from {least}, not {number:g}.")
    return tuple(int(number) for number in found)


def read_duration(text: str, option: str) -> float:
    """Seconds of a duration such as `90m`, `8h` or `2d`.

    Raises:
        HubinitError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise HubinitError(f"{option} wants a time such as 90m, 8h or 2d, not '{text}'.")
    return seconds


def learning_rate(number: float, option: str) -> float:
    """The number itself.

    Raises:
        HubinitError: it is not above 0, infinite or NaN.
    """
    if finite(number, option) == 0:
        raise HubinitError(f"{option} wants learning rates above 0; with 0 nothing is trained.")
    return number


def finite(number: float, option: str) -> float:
    """The number itself.

    Raises:
        HubinitError: it is negative, infinite or NaN.
    """
    if not (math.isfinite(number) and number >= 0):
        raise HubinitError(f"{option} wants finite numbers from 0, not {number:g}.")
    return number
