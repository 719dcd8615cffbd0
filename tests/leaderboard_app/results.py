"""A small leaderboard, built from results as `bench` writes them: six methods, two tasks, two learning rates, three seeds."""

import numpy as np

from hubinit.records import Cost, CurvePoint, Item, Provenance, ResultStore, RunResult, Score
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec

QUESTIONS = 80
CHANCES = {"none": 0.3, "lora": 0.4, "pissa": 0.42, "eva": 0.41, "filet": 0.75, "lora-ga": 0.45}
DATA_AWARE = ("eva", "filet", "lora-ga")
TASKS = ("arc-easy", "piqa")
RATES = (2e-4, 1e-3)


def write_results(root, *, methods=CHANCES, model="org/model", rates=RATES, seeds=3, command=None, said="choice"):
    """Finished runs with item records; the lower learning rate has the lower validation loss."""
    for number, (method, chance) in enumerate(methods.items()):
        for rate in rates if method != "none" else (0.0,):
            for seed in range(seeds if method != "none" else 1):
                _write(root, model, method, number, chance - 20 * rate, rate, seed, command, said)
    return root


def _write(root, model, method, number, chance, rate, seed, command, said):
    trained = method != "none"
    spec = RunSpec(
        model=ModelSpec(id=model, revision="a" * 40, dtype="float32"),
        method=MethodSpec(name=method),
        rank=8 if trained else 0,
        alpha=16 if trained else 0,
        data=DataSpec(tasks=("arc-easy",)) if trained else None,
        recipe=Recipe(steps=10) if trained else None,
        calibration=CalibrationSpec() if method in DATA_AWARE else None,
        learning_rate=rate,
        seed=seed,
    )
    store = ResultStore(root)
    scores = []
    for place, task in enumerate(TASKS):
        generator = np.random.default_rng([place, seed])  # the same questions are hard for all
        right = (generator.random(QUESTIONS) < chance).astype(float)
        evaluation = EvalSpec(task=task, revision="d" * 40)
        score = Score(
            task=task, metric="acc", value=right.mean(), n=QUESTIONS, stderr=0.05, primary=True, eval=evaluation
        )
        items = [
            Item(id=str(i), prompt_hash=f"{i:016x}", values={"acc": one}, outputs=(f"{said} {int(one)}",))
            for i, one in enumerate(right)
        ]
        scores += store.write_items(spec.key, [score], items)
    costs = {"initialise": Cost(seconds=number), "train": Cost(seconds=10.0 + number, peak_memory_bytes=2**30)}
    store.write(
        RunResult(
            key=spec.key,
            spec=spec,
            status="ok",
            scores=tuple(scores),
            validation_loss=1.0 - chance + 100 * rate if trained else None,
            costs=costs if trained else {},
            curve=tuple(CurvePoint(step=step, loss=3 - step * chance / 10) for step in range(1, 11)) if trained else (),
            adapter_sha256="c" * 64 if trained else None,
            provenance=Provenance(
                versions={"torch": "2.13"},
                hardware={"cpu": "2 cores"},
                command=command or f"hubinit bench --methods {method} --protocol quickstart",
                created="2026-11-01T00:00:00Z",
            ),
        )
    )
