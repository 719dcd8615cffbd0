"""What bench and train say about their results."""

import sys
from pathlib import Path

import pytest

from hubinit.cli import running
from hubinit.records import Provenance, RunResult
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec


def result(seed: int, cut: int | None, task: str = "piqa") -> RunResult:
    spec = RunSpec(
        model=ModelSpec(id="org/base"),
        method=MethodSpec(name="lora"),
        rank=2,
        alpha=4,
        seed=seed,
        data=DataSpec(tasks=(task,)),
        recipe=Recipe(max_length=64),
    )
    provenance = Provenance(versions={}, hardware={}, command="", created="")
    return RunResult(key=spec.key, spec=spec, status="ok", cut_examples=cut, provenance=provenance)


def test_examples_that_were_cut_are_said_once_per_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(running, "warn", said.append)
    running.warn_cut([result(0, 3), result(1, 5), result(0, 0, "boolq"), result(1, None, "boolq")])
    assert said == [
        "piqa: 5 training examples have more than 64 tokens with org/base and lost some; raise recipe.max_length."
    ]


def test_the_end_names_what_failed_and_the_command_that_tries_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(running, "warn", said.append)
    monkeypatch.setattr(sys, "argv", ["/bin/hubinit", "bench", "--force", "--set", "a b=1"])
    failed = result(0, None).model_copy(update={"status": "failed", "reason": "a gate"})
    diverged = result(1, None).model_copy(update={"status": "diverged", "reason": "not finite"})
    running.say_failures([diverged, failed], {failed.key: "commonsense"}, Path("my runs"))
    assert said == [
        "Runs without a complete result: 2",
        f"  {diverged.key[:8]} base lora r2 piqa 0 seed 1: diverged: not finite",
        f"  {failed.key[:8]} base lora r2 commonsense 0 seed 0: failed: a gate",
        f"Read more: hubinit logs {diverged.key[:8]} --out 'my runs'",
        "Try what failed again, and only that: hubinit bench --set 'a b=1'",
        "A run that diverged would diverge again; give it a lower learning rate.",
    ]
    said.clear()
    running.say_failures([diverged], {}, Path("runs"))
    assert not any("again, and only" in line for line in said)
    said.clear()
    running.say_failures([], {}, Path("runs"))
    assert said == []
