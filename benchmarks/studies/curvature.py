"""How well does curvature at the start predict the best learning rate? Measured for every method of a study of runs.

It measures each method's start on a few training examples, reads at which rate the finished runs of seed 0 have the lowest
validation loss, and says what each suggestion would have been worth. Every measurement is written at once: a second call goes
on, and when more runs have finished, `--report` alone is quick.

    python benchmarks/studies/curvature.py --runs study
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import torch
from scipy.stats import spearmanr

from hubinit import adapters, tasks
from hubinit.adapters.calibrating import need_of
from hubinit.models import base
from hubinit.paths import write_atomically
from hubinit.records import ResultStore
from hubinit.runs import stages
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.specs import Recipe
from hubinit.training import curvature
from hubinit.training.optimisers import get

PROTOCOL = Path(__file__).with_name("arc_easy.yaml")
RESULTS = Path(__file__).parents[1] / "results" / "studies" / "curvature.json"
METHODS = "lora,pissa,filet,lora-da,milora,lora-ga,lora-one,eva"
EXAMPLES = 8  # of ARC-Easy's training split, about 30 tokens each
WALK, WALK_RATE = 4, 1e-3  # optimiser steps before the second look, and their rate
LOOKS = ("start", "walked", "eigenvalue")
Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Measures what is missing, and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the study's runs")
    parser.add_argument("--protocol", default=str(PROTOCOL))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--looks", default=",".join(LOOKS))
    parser.add_argument("--calibrations", type=Path, default=Path("calibrations"), help="folder to keep them in")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    methods = tuple(arguments.methods.split(","))
    request = Request(
        ("smollm2-135m",), methods, ("arc-easy",), seeds=(0,), dtype="bfloat16", protocol=arguments.protocol
    )
    planned = plan(request, ResultStore(arguments.runs))
    stored = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}
    rows: Rows = stored.get("measured", {})
    if not arguments.report:
        for _ in measure(planned, rows, arguments.looks.split(","), arguments.calibrations):
            write(arguments.results, rows, planned)
    write(arguments.results, rows, planned)
    print(json.dumps(report(rows, best_rates(planned)), indent=1))


def write(path: Path, rows: Rows, planned: list[PlannedRun]) -> None:
    """Writes everything that is known so far."""
    losses = {name: of_method(planned, name) for name in rows}
    facts = provenance("python benchmarks/studies/curvature.py --runs RUNS").model_dump()
    found = {"measured": rows, "validation_losses": losses, "report": report(rows, best_rates(planned)), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(found, indent=1) + "\n")


def of_method(planned: list[PlannedRun], name: str) -> dict[float, float]:
    """Validation loss by learning rate, of the finished runs of a method."""
    runs = sorted((run for run in planned if run.spec.method.name == name), key=lambda run: run.spec.learning_rate)
    losses = {run.spec.learning_rate: run.stored.validation_loss for run in runs if run.stored is not None}
    return {rate: loss for rate, loss in losses.items() if loss is not None}


def best_rates(planned: list[PlannedRun]) -> dict[str, float]:
    """The rate with the lowest validation loss of each method all of whose runs are finished (a diverged one is)."""
    best = {}
    for name in {run.spec.method.name for run in planned}:
        runs = [run for run in planned if run.spec.method.name == name]
        losses = of_method(planned, name)
        if losses and all(run.stored is not None and run.stored.status != "failed" for run in runs):
            best[name] = min(losses, key=losses.__getitem__)
    return best


def measure(planned: list[PlannedRun], rows: Rows, looks: list[str], kept_in: Path) -> Iterator[None]:
    """Adds what is missing to the rows, one look at all methods after the other."""
    starts = {run.spec.method.name: run.spec for run in reversed(planned)}
    needs = [need_of(spec.method, spec.calibration) for spec in starts.values() if spec.calibration is not None]
    first = planned[0].spec
    assert first.data is not None
    loaded = base.load(first.model)
    pool = tasks.training_examples(first.data, 0)[0]
    for look in looks:
        for name in [run.spec.method.name for run in planned if run.spec.learning_rate == first.learning_rate]:
            if look in rows.get(name, {}):
                continue
            spec, calibration = starts[name], None
            assert spec.recipe is not None
            if spec.calibration is not None:
                calibration = stages.calibrate_start(
                    spec, loaded, pool, needs, kept_in, Stopwatch(), on_batch=tell_batch, on_plan=print
                )
            model = stages.attach_start(spec, loaded, calibration, population=len(pool))
            started = time.perf_counter()
            found = LOOK[look](model, loaded.processor, pool, spec.recipe)
            rows.setdefault(name, {})[look] = {**found, "seconds": round(time.perf_counter() - started, 1)}
            adapters.detach(loaded.model)
            print(name, look, rows[name][look], file=sys.stderr, flush=True)
            yield


def tell_batch(done: int, total: int) -> None:
    """Says how far the calibration is."""
    if done % 16 == 0:
        print(f"calibrating {done} of {total}", file=sys.stderr, flush=True)


def look_at_start(model: Any, processor: Any, pool: Any, recipe: Recipe) -> dict[str, float]:
    """Slope and bend along the first step."""
    found = curvature.suggest_learning_rate(model, processor, pool[:EXAMPLES], recipe)
    return {"rate": found.rate, "slope": found.slope, "bend": found.bend}


def look_after_walk(model: Any, processor: Any, pool: Any, recipe: Recipe) -> dict[str, float]:
    """Slope and bend along a first step, where some steps of the optimiser on other examples have led."""
    optimiser = get(recipe.optimiser).build(model, WALK_RATE, recipe)
    for number in range(1, WALK + 1):
        examples = pool[number * EXAMPLES : (number + 1) * EXAMPLES]
        with curvature.prepare_problem(model, processor, examples, recipe) as problem:
            parts = curvature.unflatten(curvature.gradient(problem), problem.parameters)
            for parameter, part in zip(problem.parameters, parts, strict=True):
                parameter.grad = part
            optimiser.step()
    optimiser.zero_grad()
    return look_at_start(model, processor, pool, recipe)


def look_at_eigenvalue(model: Any, processor: Any, pool: Any, recipe: Recipe) -> dict[str, float]:
    """The largest eigenvalue of G at the start."""
    with curvature.prepare_problem(model, processor, pool[:EXAMPLES], recipe) as problem:
        size = sum(parameter.numel() for parameter in problem.parameters)
        value, products = curvature.largest_eigenvalue(lambda v: curvature.ggn_product(problem, v), size)
    return {"rate": 1 / value, "eigenvalue": value, "products": products}


LOOK = {"start": look_at_start, "walked": look_after_walk, "eigenvalue": look_at_eigenvalue}


def report(rows: Rows, best: dict[str, float]) -> dict[str, Any]:
    """What each suggestion is worth over the methods whose best rate is known; few methods and rates prove little."""
    found: dict[str, Any] = {"best_rates": best}
    for look in LOOKS:
        names = [name for name in best if look in rows.get(name, {})]
        if len(names) < 3:
            continue
        suggested = {name: rows[name][look]["rate"] for name in names}
        wanted = {name: best[name] for name in names}
        found[look] = worth(suggested, wanted)
        found["the same rate for all"] = worth(dict.fromkeys(names, 1.0), wanted)
    return found


def worth(suggested: dict[str, float], best: dict[str, float]) -> dict[str, Any]:
    """Rank correlation, the best constant factor, and how far off a suggestion is that others' factor scales.

    `factors_off` of a method: how many times its best rate lies from its suggestion, scaled by the factor of the other methods.
    """
    ratios = {name: best[name] / suggested[name] for name in best}
    off = {}
    for name in best:
        others = geometric_mean([ratio for other, ratio in ratios.items() if other != name])
        ratio = ratios[name] / others
        off[name] = max(ratio, 1 / ratio)
    vary = len(set(best.values())) > 1 and len(set(suggested.values())) > 1
    return {
        "methods": len(best),
        "spearman": float(spearmanr(list(suggested.values()), list(best.values())).statistic) if vary else None,
        "factor": geometric_mean(ratios.values()),
        "factors_off": off,
        "within_a_factor_of_2": mean(value <= 2.0 for value in off.values()),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
