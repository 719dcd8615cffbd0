"""Keys name what comes out of a run, not how it was computed."""

import json

import pytest
from pydantic import ValidationError

from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Protocol, Recipe, RunSpec, Spec

WHOLE = RunSpec(
    model=ModelSpec(id="org/base", revision="a" * 40, dtype="bfloat16"),
    method=MethodSpec(name="filet", options={"selection": "P"}, version=2),
    rank=8,
    alpha=16,
    rslora=True,
    target_modules=("q_proj", "v_proj"),
    data=DataSpec(tasks=("arc-easy", "piqa"), revisions=("b" * 40, "c" * 40), samples=96, validation_samples=32),
    recipe=Recipe(steps=12, batch_size=8, max_length=256, schedule="linear", warmup_ratio=0.05),
    calibration=CalibrationSpec(samples=320, tokens="labels"),
    learning_rate=5e-4,
    seed=3,
)
BASE = RunSpec(model=ModelSpec(id="org/base"), method=MethodSpec(name="none"), rank=0, alpha=0)
# As it was asked for before the optimisers were an axis: A frozen by an option of the method, LoRA+ by the recipe alone.
FROZEN_A = RunSpec(
    model=ModelSpec(id="org/base", revision="a" * 40, dtype="float32"),
    method=MethodSpec(name="pissa", options={"train_a": False}),
    rank=8,
    alpha=16,
    data=DataSpec(tasks=("arc-easy",), revisions=("b" * 40,)),
    recipe=Recipe(steps=12, optimiser="lora+"),
    learning_rate=5e-4,
)
# Frozen for ever: results on disks and in leaderboards are found by these. A default that changes its value changes them.
GOLDEN = {
    "whole": (WHOLE, "498645d9f2e1d119"),
    "base": (BASE, "7bcc190f6b524d8a"),
    "frozen A": (FROZEN_A, "14da5450bdf250db"),
    "recipe": (Recipe(), "44136fa355b3678a"),
    "calibration": (CalibrationSpec(), "44136fa355b3678a"),
    "evaluation": (EvalSpec(task="arc-easy", limit=5), "bcdbffbf13a77516"),
}


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_keys(name: str) -> None:
    spec, key = GOLDEN[name]
    assert spec.key == key


def test_the_canonical_text_is_this() -> None:
    assert json.loads(WHOLE.canonical_json()) == {
        "model": {"id": "org/base", "revision": "a" * 40, "dtype": "bfloat16"},
        "method": {"name": "filet", "options": {"selection": "P"}, "version": 2},
        "rank": 8,
        "alpha": 16.0,
        "rslora": True,
        "target_modules": ["q_proj", "v_proj"],
        "data": {
            "tasks": ["arc-easy", "piqa"],
            "revisions": ["b" * 40, "c" * 40],
            "samples": 96,
            "validation_samples": 32,
        },
        "recipe": {"steps": 12, "batch_size": 8, "max_length": 256, "schedule": "linear", "warmup_ratio": 0.05},
        "calibration": {"samples": 320, "tokens": "labels"},
        "learning_rate": 0.0005,
        "seed": 3,
    }


def test_a_new_field_with_a_default_changes_no_key() -> None:
    class Older(Spec):
        model: ModelSpec
        seed: int = 0

    class NewerModel(ModelSpec):
        attention: str = "sdpa"

    class Newer(Spec):
        model: NewerModel
        seed: int = 0
        optimiser: str = "adamw"

    assert Newer(model=NewerModel(id="a/b"), seed=1).key == Older(model=ModelSpec(id="a/b"), seed=1).key


@pytest.mark.parametrize(
    "setting",
    [{"micro_batch_size": 2}, {"gradient_checkpointing": True}, {"micro_batch_size": 16}, {"batching": "packed"}],
)
def test_how_a_run_is_computed_changes_no_key(setting: dict[str, object]) -> None:
    assert Recipe(**setting).key == Recipe().key


def test_the_floating_point_type_changes_the_key() -> None:
    keys = {BASE.model_copy(update={"model": ModelSpec(id="a/b", dtype=d)}).key for d in ("float32", "bfloat16")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 << 30), ("1.5 GB", 1_500_000_000), ("512 kib", 512 << 10), ("4096", 4096), ("8B", 8), (7, 7)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert CalibrationSpec(memory_budget=text).memory_budget == size


@pytest.mark.parametrize("text", ["much", "2 tons", "-1GB", "GiB", "0", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        CalibrationSpec(memory_budget=text)


def test_an_optimiser_is_named_with_its_settings_that_are_not_the_defaults() -> None:
    assert Recipe().optimiser_label == "adamw"
    assert Recipe(optimiser="riemannian", lora_plus_ratio=4).optimiser_label == "riemannian"
    label = Recipe(optimiser="riemannian", riemannian_damping=0.01).optimiser_label
    assert label == "riemannian riemannian_damping=0.01"


def test_each_optimiser_of_a_protocol_gets_its_own_settings_and_the_rest_of_the_recipe() -> None:
    protocol = Protocol(recipe=Recipe(steps=3, lora_plus_ratio=4), optimisers=("adamw", "lora+"))
    assert protocol.recipe_with("adamw") == Recipe(steps=3)
    assert protocol.recipe_with("adamw").key == Recipe(steps=3).key
    assert protocol.recipe_with("lora+") == Recipe(steps=3, optimiser="lora+", lora_plus_ratio=4)


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 6 is not a multiple of micro_batch_size 4"):
        Recipe(batch_size=6, micro_batch_size=4)
    assert Recipe(batch_size=2, micro_batch_size=4).batch_size == 2, "one micro batch holds them all"


def test_a_memory_budget_changes_no_key_and_survives_the_way_to_a_worker() -> None:
    def run(**settings: object) -> RunSpec:
        return RunSpec(
            model=ModelSpec(id="a/b"),
            method=MethodSpec(name="filet"),
            rank=8,
            alpha=16,
            calibration=CalibrationSpec(**settings),
        )

    plain, held = run(), run(memory_budget="1GiB")
    assert held.key == plain.key
    assert "memory_budget" not in held.canonical_json()
    assert run(samples=1).key != plain.key
    again = RunSpec.model_validate_json(held.model_dump_json())
    assert again.calibration is not None
    assert again.calibration.memory_budget == 1 << 30
