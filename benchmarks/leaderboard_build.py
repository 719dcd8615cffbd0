"""Builds a leaderboard from synthetic results: from nothing, again unchanged, and with a few new ones; records the seconds.

    python benchmarks/leaderboard_build.py --runs 10000 --items 200 --folder /tmp/many

The results are made once and kept in the folder. Each has a curve, four stages' costs and item records of its own.
"""

import argparse
import hashlib
import json
import resource
import shutil
import time
from itertools import islice, product
from pathlib import Path

import numpy as np

from hubinit.leaderboard.build import build
from hubinit.records import ITEMS, Cost, CurvePoint, Item, Provenance, RunResult, Score, items_name, write_items
from hubinit.runs.costs import provenance
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec

METHODS = [
    "lora",
    "pissa",
    "milora",
    "olora",
    "corda",
    "eva",
    "lora-ga",
    "lora-one",
    "lora-da",
    "filet",
    "kasa",
    "dora",
]
RATES = [1e-4, 2e-4, 5e-4, 1e-3]
MODELS = 50
NEW = 10  # results that are added


def main() -> None:
    """Makes the results, builds three times, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=200, help="questions of the task")
    parser.add_argument("--folder", type=Path, required=True, help="where the results are made and kept")
    parser.add_argument("--out", type=Path, help="file to record the seconds in")
    options = parser.parse_args()
    results, late, board = (options.folder / name for name in ("results", "late", "board"))
    specs = islice(all_specs(), options.runs)
    for number, spec in enumerate(specs):
        where = late if number >= options.runs - NEW else results
        if not (where / "runs" / spec.key / "result.json").exists():
            write_run(where, spec, options.items)
    shutil.rmtree(board, ignore_errors=True)
    found = {"runs": options.runs, "items": options.items}
    early = [("results", results)]
    for name, folders in (("first", early), ("unchanged", early), ("ten_new", [*early, ("late", late)])):
        before = digest(board)
        start, cpu = time.perf_counter(), time.process_time()
        built = build(folders, [], board)
        found[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        found[name] |= {"read": built.read, "rows": len(built.runs)}
        found[name]["changed"] = digest(board) != before
    found["lines"] = len(built.summary)
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found |= provenance(
        f"python benchmarks/leaderboard_build.py --runs {options.runs} --items {options.items}"
    ).model_dump()
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def all_specs():
    """Runs of every model, seed, rate and method, model after model."""
    for model, seed, rate, method in product(range(MODELS), range(5), RATES, METHODS):
        yield RunSpec(
            model=ModelSpec(id=f"org/model-{model}", revision="a" * 40, dtype="float32"),
            method=MethodSpec(name=method),
            rank=8,
            alpha=16,
            data=DataSpec(tasks=("arc-easy",)),
            recipe=Recipe(steps=100),
            calibration=None if method == "lora" else CalibrationSpec(),
            learning_rate=rate,
            seed=seed,
        )


def write_run(folder: Path, spec: RunSpec, questions: int) -> None:
    """One result and its item records; the score is the mean of its items."""
    generator = np.random.default_rng(int(spec.key, 16))
    right = generator.random(questions) < 0.5
    items = [
        Item(id=str(i), prompt_hash=hashlib.sha256(str(i).encode()).hexdigest()[:16], values={"acc": float(one)})
        for i, one in enumerate(right)
    ]
    evaluation = EvalSpec(task="arc-easy", revision="b" * 40)
    where = folder / "runs" / spec.key
    digest = write_items(where / ITEMS / items_name(evaluation), items)
    score = Score(
        task="arc-easy",
        metric="acc",
        value=float(right.mean()),
        n=questions,
        stderr=float(right.std() / questions**0.5),
        primary=True,
        eval=evaluation,
        items=digest,
    )
    losses = 3 * np.exp(-np.arange(100) / 50) + generator.normal(0, 0.1, 100)
    result = RunResult(
        key=spec.key,
        spec=spec,
        status="ok",
        scores=(score,),
        validation_loss=float(generator.normal(1, 0.1)),
        costs={
            name: Cost(seconds=float(generator.random()), peak_memory_bytes=10**9) for name in ("initialise", "train")
        },
        curve=tuple(CurvePoint(step=step + 1, loss=float(loss)) for step, loss in enumerate(losses)),
        provenance=Provenance(
            versions={"torch": "2"}, hardware={"cpu": "x"}, command="x", created="2026-11-01T00:00:00Z"
        ),
    )
    (where / "result.json").write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")


def digest(folder: Path) -> str:
    """Of the files that are published."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("[a-z]*")))).hexdigest()


if __name__ == "__main__":
    main()
