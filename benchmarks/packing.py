"""What do length-grouped and packed batches save? The same optimiser steps on one task, side by side, from one start.

Rounds alternate between the ways, because a shared machine changes its speed; the median of each round's ratio to `shuffled`
counts. The losses are printed too: they are equal up to rounding.

    HF_ENDPOINT=http://… python benchmarks/packing.py --record
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

import hubinit
from hubinit import tasks
from hubinit.data.encode import encode_all
from hubinit.models import base
from hubinit.runs.costs import provenance
from hubinit.runs.plan import chosen_model
from hubinit.specs import Batching, DataSpec, Recipe
from hubinit.training.trainer import train

WAYS: tuple[Batching, ...] = get_args(Batching)


def padding(lengths: list[int], batching: Batching, recipe: Recipe) -> float:
    """The share of the positions that is padding, over steps in the data's order."""
    filled = whole = 0
    for start in range(0, len(lengths), recipe.batch_size):
        step = lengths[start : start + recipe.batch_size]
        ordered = sorted(step) if batching == "length-grouped" else step
        for first in range(0, len(step), recipe.micro_batch_size):
            group = ordered[first : first + recipe.micro_batch_size]
            filled += sum(group)
            whole += sum(group) if batching == "packed" else len(group) * max(group)
    return 1 - filled / whole


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains in rounds and gathers the seconds of each way."""
    model = chosen_model(options.model, options.dtype)
    loaded = base.load(model)
    data = DataSpec(tasks=(options.task,), samples=options.steps * options.batch_size)
    pool: Any = tasks.training_examples(data, 0)[0]
    recipe = Recipe(
        steps=options.steps, batch_size=options.batch_size, micro_batch_size=options.micro_batch_size, max_length=512
    )
    lengths = [len(feature["input_ids"]) for feature in encode_all(pool, loaded.processor, recipe.max_length)[0]]
    seconds: dict[Batching, list[float]] = {way: [] for way in WAYS}
    losses: dict[Batching, float] = {}
    for turn in range(options.rounds):
        for way in WAYS:
            adapted = hubinit.initialize(loaded.model, "lora", rank=8)
            with TemporaryDirectory() as folder:
                synchronise()
                began = time.perf_counter()
                outcome = train(
                    adapted,
                    loaded.processor,
                    pool,
                    recipe.model_copy(update={"batching": way}),
                    learning_rate=2e-4,
                    seed=0,
                    output_dir=Path(folder),
                )
                synchronise()
            seconds[way].append(time.perf_counter() - began)
            losses[way] = outcome.curve[-1].loss
            hubinit.detach(adapted)
            print(f"round {turn + 1}: {way:14} {seconds[way][-1]:7.1f} s, last loss {losses[way]:.6f}", flush=True)
    ratios = {way: [own / plain for own, plain in zip(seconds[way], seconds["shuffled"], strict=True)] for way in WAYS}
    return {
        "model": options.model,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "task": options.task,
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "tokens": sum(lengths),
        "ways": {
            way: {
                "seconds": seconds[way],
                "ratio": statistics.median(ratios[way]),
                "ratios": [min(ratios[way]), max(ratios[way])],
                "padding": padding(lengths, way, recipe),
                "last_loss": losses[way],
            }
            for way in WAYS
        },
    }


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Measures, prints and, if asked, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--task", default="arc-easy")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/packing-DEVICE.json")
    options = parser.parse_args()
    record = measure(options)
    for way, row in record["ways"].items():
        print(f"{way:14} {row['ratio']:.2f} of shuffled, {row['padding']:.0%} padding")
    if options.record:
        record |= provenance("python benchmarks/packing.py --record").model_dump()
        place = "gpu" if record["device"].startswith("cuda") else "cpu"
        path = Path(__file__).parent / "results" / f"packing-{place}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
