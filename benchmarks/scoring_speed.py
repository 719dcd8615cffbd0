"""How many questions are scored per second, and in how much memory, by batch size: the same call that `hubinit bench` makes.

The task is ARC-Easy through lm-eval (four log-likelihoods for most questions), on a real model and on shapes with random
weights, which take the real model's tokenizer. The record is written again after every measurement.

    python benchmarks/scoring_speed.py --device cuda --out results     # the Hub that HF_ENDPOINT names has model and data
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from init_shapes import chosen_dtype, real, shaped

from hubinit import tasks
from hubinit.errors import HubinitError, first_line
from hubinit.runs.costs import peak_memory, provenance, reset_peak_memory
from hubinit.runs.sweep import command_line
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import EvalSpec

RESULTS = Path(__file__).resolve().parent / "results"
TASK = "arc-easy"


@dataclass(frozen=True)
class Speed:
    """One measurement; `reason` says why there is none."""

    model: str
    batch_size: int
    questions: int = 0
    requests: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    reason: str = ""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="alias, Hub id or folder")
    parser.add_argument("--shape", default="llama3.2-1b", help="of init_shapes.py, with random weights")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--batch-sizes", default="16,64,256")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU when there is one")
    parser.add_argument("--seconds", type=float, default=600.0, help="no measurement starts after that")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measures one model after the other, with every batch size."""
    options = arguments()
    end = time.perf_counter() + options.seconds
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    speeds: list[Speed] = []
    try:
        revision = tasks.pin(TASK)
        model, tokenizer, _ = real(options.model, "auto", device)
        for name in (options.model, options.shape):
            if name == options.shape:
                del model
                model, _ = shaped(name, None, device, chosen_dtype("auto", device))
            measure(model, tokenizer, name, EvalSpec(task=TASK, revision=revision, limit=16), 16)  # warm-up
            evaluation = EvalSpec(task=TASK, revision=revision, limit=options.questions)
            for size in map(int, options.batch_sizes.split(",")):
                if time.perf_counter() > end:
                    speeds.append(Speed(name, size, reason="the time of the whole run was over"))
                else:
                    speeds.append(measure(model, tokenizer, name, evaluation, size))
                write(speeds, device, str(model.dtype).removeprefix("torch."), options)
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{sum(not speed.reason for speed in speeds)} of {len(speeds)} measurements, written to {options.out}")
    return 0


def measure(model: Any, tokenizer: Any, name: str, evaluation: EvalSpec, batch_size: int) -> Speed:
    """Scores once, from the data set in memory to the scores."""
    requests = 0

    def count(done: int, total: int) -> None:
        nonlocal requests
        requests = total

    reset_peak_memory()
    start = time.perf_counter()
    try:
        scores = evaluate_one(model, tokenizer, evaluation, batch_size=batch_size, on_progress=count).scores
    except torch.OutOfMemoryError as error:
        return Speed(name, batch_size, reason=f"out of memory ({first_line(error)})")
    seconds = time.perf_counter() - start
    return Speed(name, batch_size, scores[0].n, requests, round(seconds, 3), peak_memory())


def write(speeds: list[Speed], device: torch.device, dtype: str, options: argparse.Namespace) -> None:
    """Writes all measurements so far, as JSON and as a table."""
    machine = torch.cuda.get_device_name().split()[-1].lower() if device.type == "cuda" else "cpu"
    facts = provenance(command_line()).model_dump(mode="json")
    record = {**facts, "task": TASK, "dtype": dtype, "rows": [asdict(speed) for speed in speeds]}
    lines = [
        f"# Scoring speed: {TASK}, {dtype}, {facts['hardware'].get('gpu', facts['hardware']['cpu'])}",
        "",
        "| model | batch size | questions | requests | seconds | questions per second | peak memory |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for speed in speeds:
        cells = [f"{speed.questions}", f"{speed.requests}", f"{speed.seconds:.2f}"]
        cells += (
            [f"{speed.questions / speed.seconds:.1f}", f"{speed.peak_bytes / 2**20:.0f} MiB"]
            if speed.seconds
            else ["", ""]
        )
        lines.append(f"| {speed.model} | {speed.batch_size} | " + (speed.reason or " | ".join(cells)) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"scoring_speed-{machine}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
