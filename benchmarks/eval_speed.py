"""Multiple-choice scoring against lm-eval's own HFLM: the same model, the same items, the answers compared item for item.

Both run lm-eval's evaluator on a data set in memory; they differ in how the log-likelihoods are computed. HFLM gets the best of
the batch sizes given. The second table is what a reload of the base for each adapter costs against swapping adapters on one base.

    python benchmarks/eval_speed.py      # the Hub that HF_ENDPOINT names has model and data
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.models.base import load
from hubinit.models.names import pin, resolve
from hubinit.records import Item
from hubinit.runs.costs import provenance
from hubinit.runs.sweep import command_line
from hubinit.scoring import lm_eval as ours
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import EvalSpec

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Row:
    """One task scored both ways."""

    task: str
    questions: int
    hflm_batch_size: int
    hflm_seconds: float
    seconds: float
    choices_that_differ: int
    largest_difference: float  # of a log-likelihood

    @property
    def ratio(self) -> float:
        """How many times as many questions per second."""
        return self.hflm_seconds / self.seconds


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="arc-easy,arc-challenge,openbookqa,hellaswag,piqa,siqa,winogrande,boolq")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch-sizes", default="16,64", help="tried for HFLM; ours takes the last")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measures every task, then the adapters."""
    options = arguments()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    try:
        spec = pin(resolve(options.model).model_copy(update={"dtype": "float32"}))
        loaded = load(spec)
        rows = [measure(loaded, name, options.questions, sizes) for name in options.tasks.split(",")]
        swap = swap_or_reload(spec, loaded, options.adapters)
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    write(rows, swap, options)
    return 0


def measure(loaded: Any, name: str, questions: int, sizes: list[int]) -> Row:
    """One task with HFLM at each batch size, and with our trees."""
    evaluation = EvalSpec(task=name, revision=tasks.pin(name), limit=questions)
    small = evaluation.model_copy(update={"limit": 4})
    made = ours.lm_eval_model
    theirs: dict[int, tuple[float, list[Item]]] = {}
    ours.lm_eval_model = plain_hflm  # type: ignore[assignment]
    try:
        score(loaded, small, 4)  # warm-up
        for size in sizes:
            theirs[size] = timed(lambda size=size: score(loaded, evaluation, size))
    finally:
        ours.lm_eval_model = made
    score(loaded, small, 4)
    seconds, items = timed(lambda: score(loaded, evaluation, sizes[-1]))
    best = min(theirs, key=lambda size: theirs[size][0])
    pairs = list(zip(items, theirs[best][1], strict=True))
    row = Row(
        name,
        len(items),
        best,
        round(theirs[best][0], 2),
        round(seconds, 2),
        sum(a.values != b.values for a, b in pairs),
        max(abs(x - y) for a, b in pairs for x, y in zip(a.log_likelihoods, b.log_likelihoods, strict=True)),
    )
    print(f"{name}: {row.ratio:.2f} x, {row.choices_that_differ} items differ", flush=True)
    return row


def score(loaded: Any, evaluation: EvalSpec, batch_size: int) -> list[Item]:
    """The items of one evaluation."""
    return evaluate_one(loaded.model, loaded.processor, evaluation, batch_size=batch_size).items


def plain_hflm(model: Any, tokenizer: Any, batch_size: int, on_progress: Any) -> Any:
    """lm-eval's own model, with its logits_cache and logarithms in float32."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


def swap_or_reload(spec: Any, loaded: Any, count: int) -> dict[str, float]:
    """Seconds to have each of `count` adapters ready on the base, swapped and with a base loaded for each."""
    with tempfile.TemporaryDirectory() as folder:
        model = get_peft_model(load(spec).model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
        model.save_pretrained(folder)
        base = loaded.model

        def swap() -> None:
            for _ in range(count):
                PeftModel.from_pretrained(base, folder).unload()

        def reload() -> None:
            for _ in range(count):
                PeftModel.from_pretrained(load(spec).model, folder)

        swapped, reloaded = timed(swap)[0], timed(reload)[0]
    return {"adapters": count, "swap_seconds": round(swapped, 2), "reload_seconds": round(reloaded, 2)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def write(rows: list[Row], swap: dict[str, float], options: argparse.Namespace) -> None:
    """Writes the record as JSON and as tables."""
    facts = provenance(command_line()).model_dump(mode="json")
    record = {
        **facts,
        "model": options.model,
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        **swap,
    }
    lines = [
        f"# Multiple-choice scoring, {options.model} in float32, {facts['hardware']['cpu']}",
        "",
        "| task | questions | HFLM s (batch) | hubinit s | times as fast | items that differ | largest difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.task} | {row.questions} | {row.hflm_seconds} ({row.hflm_batch_size}) | {row.seconds} | {row.ratio:.2f} | "
        f"{row.choices_that_differ} | {row.largest_difference:.1e} |"
        for row in rows
    ]
    lines += ["", f"{swap['adapters']} adapters: swapped on one base in {swap['swap_seconds']} s, with a base loaded for each in "
              f"{swap['reload_seconds']} s ({swap['reload_seconds'] / swap['swap_seconds']:.1f} times)."]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"eval_speed-cpu-{options.model}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
