"""What bench and train say about their results."""

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
