"""Does hubinit train what a plain PEFT and Trainer script trains? Their loss curves, side by side.

`plain_peft.py` is the plain script. It loads the start of `lora` and `dora` (A is a random draw) and makes that of `pissa`
itself. Everything else of the two is apart: tokens, labels, order, loss, optimiser and schedule. In float32 on the CPU.

    HF_ENDPOINT=http://… python benchmarks/loss_parity.py --record
"""

import argparse
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plain_peft import train_plainly

from hubinit import tasks
from hubinit.records import ResultStore
from hubinit.runs.job import Job
from hubinit.runs.plan import Request, plan
from hubinit.runs.worker import Worker
from hubinit.specs import RunSpec

METHODS = ("lora", "dora", "pissa")
SETTINGS = (
    *("recipe.steps=20", "recipe.batch_size=2", "recipe.micro_batch_size=1", "recipe.max_length=256"),
    *("samples=40", "validation_samples=0"),
)


def compare(spec: RunSpec, store: Path) -> dict[str, Any]:
    """The two curves of one run, and how far they are apart at most.

    Raises:
        RuntimeError: hubinit's run failed.
    """
    Worker(lambda event: None).do(Job(store=store, spec=spec, device="cpu"))
    results = ResultStore(store)
    result = results.readable(spec.key)
    if result is None or result.status != "ok":
        raise RuntimeError(f"{spec.method.name}: {result.reason if result else 'no result'}")
    assert spec.recipe is not None and spec.data is not None
    recipe, method = spec.recipe, spec.method.name
    texts = [(one.prompt, one.completion) for one in tasks.training_examples(spec.data, spec.seed)[0]]  # type: ignore[union-attr]
    plain = train_plainly(
        spec.model.id,
        spec.model.revision,
        texts,
        "pissa" if method == "pissa" else str(results.folder(spec.key) / "init"),
        spec.seed,
        str(store / "plain"),
        rank=spec.rank,
        alpha=spec.alpha,
        steps=recipe.steps,
        batch=recipe.micro_batch_size,
        accumulate=recipe.batch_size // recipe.micro_batch_size,
        lr=spec.learning_rate,
    )
    ours = [point.loss for point in result.curve]
    apart = max((abs(one - two) for one, two in zip(ours, plain, strict=True)), default=math.inf)
    return {"hubinit": ours, "plain": plain, "largest_difference": apart}


def main() -> None:
    """Compares the three methods, prints a line for each, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default=",".join(METHODS), help="with --record, the rows of others stay")
    parser.add_argument("--task", default="arc-easy")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/loss_parity.json")
    options = parser.parse_args()
    request = Request(
        models=(options.model,),
        methods=tuple(options.methods.split(",")),
        tasks=(options.task,),
        learning_rates=(options.lr,),
        dtype="float32",
        overrides=SETTINGS,
    )
    with TemporaryDirectory() as folder:
        rows = {}
        for run in plan(request, ResultStore(Path(folder))):
            name = run.spec.method.name
            row = rows[name] = compare(run.spec, Path(folder))
            print(
                f"{name:6} loss {row['plain'][0]:.4f} to {row['plain'][-1]:.4f}, "
                f"largest difference {row['largest_difference']:.1e}",
                flush=True,
            )
    if options.record:
        from hubinit.runs.costs import provenance

        facts = provenance(f"python benchmarks/loss_parity.py --methods {options.methods} --record").model_dump()
        path = Path(__file__).parent / "results" / "loss_parity.json"
        before = json.loads(path.read_text())["rows"] if path.is_file() else {}
        record = {
            "rows": before | {name: {**row, **facts} for name, row in rows.items()},
            "model": options.model,
            "task": options.task,
            "learning_rate": options.lr,
            "settings": SETTINGS,
        }
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
