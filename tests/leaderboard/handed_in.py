"""Submissions of a few hundred bytes: ARC questions with log-likelihoods that were drawn, and the scores that these give."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubinit.cli import main
from hubinit.records import Cost, Item, Provenance, ResultStore, RunResult, Score
from hubinit.specs import DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests.texts import arc

QUESTIONS = arc(6, first=1000)  # the test split of `save_arc`
EVALUATION = EvalSpec(task="arc-easy", limit=6)


def answered(seed: int) -> list[Item]:
    """Log-likelihoods of each choice, and what is the likeliest as it is and per character."""
    generator, items = np.random.default_rng(seed), []
    for number, row in enumerate(QUESTIONS):
        texts, right = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        known = -10 * generator.random(len(texts)) - 0.1
        lengths = np.array([len(text) for text in texts])
        values = {"acc": float(known.argmax() == right), "acc_norm": float((known / lengths).argmax() == right)}
        items.append(Item(id=str(number), prompt_hash="0" * 16, values=values, log_likelihoods=tuple(known)))
    return items


def hand_in(
    root: Path, *, seed: int = 0, items: list[Item] | None = None, value: float | None = None, **changes: Any
) -> RunResult:
    """Writes a run of a submission; `changes` are of the result, `value` of its ranking score."""
    spec = RunSpec(
        model=ModelSpec(id="org/model", revision="a" * 40, dtype="float32"),
        method=MethodSpec(name="lora"),
        rank=8,
        alpha=16,
        data=DataSpec(tasks=("arc-easy",)),
        recipe=Recipe(steps=10),
        learning_rate=1e-3,
        seed=seed,
    )
    items = items if items is not None else answered(seed)
    means = {metric: float(np.mean([item.values[metric] for item in items])) for metric in ("acc", "acc_norm")}
    means["acc"] = means["acc"] if value is None else value
    scores = [
        Score(task="arc-easy", metric=name, value=mean, n=len(items), primary=name == "acc", eval=EVALUATION)
        for name, mean in means.items()
    ]
    store = ResultStore(root)
    known = {
        "key": spec.key,
        "spec": spec,
        "status": "ok",
        "scores": tuple(store.write_items(spec.key, scores, items)),
        "validation_loss": 1.0,
        "costs": {"train": Cost(seconds=10.0)},
        "adapter_sha256": "b" * 64,
        "provenance": Provenance(
            versions={"hubinit": "1", "torch": "2"},
            hardware={"cpu": "x"},
            command="hubinit bench",
            created="2026-11-01T00:00:00Z",
        ),
    }
    return store.write(RunResult(**known | changes))


def command(*arguments: object) -> int:
    """Runs `hubinit leaderboard …` in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hubinit", "leaderboard", *map(str, arguments)])
        try:
            main()
        except SystemExit as done:
            return int(done.code or 0)
    return 0
