"""hubinit's curve is that of a plain PEFT and Trainer script, with a tiny model: the code of `benchmarks/loss_parity.py`."""

from pathlib import Path

import pytest
from loss_parity import compare

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests import texts

# prompts and completions of different lengths, 27 in epochs of 4: padding, accumulation, and smaller last steps and passes
POOL = [
    Example(f"What comes after {'number ' * (i % 3)}{i}?", f" It is{' really' * (i % 4)} {i + 1}.") for i in range(27)
]
RECIPE = Recipe(steps=20, batch_size=4, micro_batch_size=2, max_length=128)


@pytest.mark.parametrize("method", ["lora", "dora", "pissa"])
def test_twenty_steps_are_those_of_the_plain_script(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "training_examples", lambda data, seed: (POOL, ()))
    spec = RunSpec(
        model=ModelSpec(id=str(texts.save_model(tmp_path / "model")), dtype="float32"),
        method=MethodSpec(name=method),
        rank=2,
        alpha=4,
        data=DataSpec(tasks=("boolq",)),
        recipe=RECIPE,
        learning_rate=3e-3,
        seed=5,
    )
    found = compare(spec, tmp_path / "runs")
    assert len(found["plain"]) == 20
    assert found["plain"][-1] < found["plain"][0] - 0.5, "it learns, so the curves have room to part"
    assert found["largest_difference"] < 1e-4
