"""What the study of suggested learning rates says of suggestions whose worth is plain."""

import pytest
from studies.curvature import EXAMPLES, LOOK, WALK, best_rates, report, worth

import hubinit
from hubinit.data.encode import Example
from hubinit.records import Provenance, RunResult
from hubinit.runs.plan import PlannedRun
from hubinit.specs import MethodSpec, ModelSpec, Recipe, RunSpec
from tests.texts import language_model, tokenizer


def test_suggestions_that_are_off_by_one_factor_are_perfect():
    found = worth({"a": 1e-4, "b": 1e-3, "c": 4e-4}, {"a": 3e-4, "b": 3e-3, "c": 12e-4})
    assert found["spearman"] == pytest.approx(1.0)
    assert found["factor"] == pytest.approx(3.0)
    assert list(found["factors_off"].values()) == pytest.approx([1.0, 1.0, 1.0])


def test_the_factor_of_a_method_comes_from_the_others():
    found = worth(dict.fromkeys("abc", 1.0), {"a": 1e-3, "b": 1e-3, "c": 8e-3})
    assert found["spearman"] is None, "the same rate for all has no ranks"
    assert found["factors_off"] == pytest.approx({"a": 8**0.5, "b": 8**0.5, "c": 8.0})
    assert found["within_a_factor_of_2"] == 0


def run(method, rate, loss=None, status="ok"):
    spec = RunSpec(model=ModelSpec(id="org/one"), method=MethodSpec(name=method), rank=2, alpha=4, learning_rate=rate)
    provenance = Provenance(versions={}, hardware={}, command="x", created="2026-01-01")
    stored = RunResult(key=spec.key, spec=spec, status=status, validation_loss=loss, provenance=provenance)
    return PlannedRun(spec, "arc-easy", (), stored if loss is not None or status != "ok" else None)


def test_only_a_method_whose_runs_have_all_finished_has_a_best_rate():
    runs = [run("a", 1e-4, 2.0), run("a", 1e-3, 1.5), run("b", 1e-4, 2.0), run("b", 1e-3)]
    runs += [run("c", 1e-4, 1.0), run("c", 1e-3, status="diverged")]
    assert best_rates(runs) == {"a": 1e-3, "c": 1e-4}


def test_fewer_than_three_methods_are_not_reported():
    rows = {name: {"start": {"rate": 1e-3}} for name in "ab"}
    assert report(rows, {"a": 1e-3, "b": 1e-4}) == {"best_rates": {"a": 1e-3, "b": 1e-4}}


def test_the_looks_at_a_start_agree_with_each_other():
    """The walk leads somewhere else, and the largest eigenvalue is at least the curvature along the first step."""
    recipe = Recipe(batch_size=4, micro_batch_size=4, max_length=64)
    pool = [Example(f"What comes after {index}?", " bird") for index in range(EXAMPLES * (WALK + 1))]
    found = {}
    for look, measure in LOOK.items():
        model = hubinit.initialize(language_model(), "lora", rank=2)
        found[look] = measure(model, tokenizer(), pool, recipe)
        moved = sum(p.numel() for n, p in model.named_parameters() if ".lora_B." in n)  # Adam's first step: only B
    assert 0 < found["walked"]["rate"] != found["start"]["rate"]
    assert found["eigenvalue"]["eigenvalue"] > found["start"]["bend"] / moved
