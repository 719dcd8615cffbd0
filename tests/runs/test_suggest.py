"""A grid that moves to where the starts suggest: the same for every method, and the same when asked again."""

from dataclasses import replace

import pytest

from hubinit import tasks
from hubinit.cli import suggesting
from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs import suggest
from hubinit.runs.plan import PlannedRun, Request
from hubinit.runs.suggest import move_grid, suggest_rates
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests import texts


def test_a_moved_grid_keeps_its_order_and_width_and_has_its_middle_at_the_median():
    assert move_grid((4e-4, 1e-4, 2e-4), (2e-3, 1e-5, 0.5)) == (4e-3, 1e-3, 2e-3)
    assert move_grid((2e-4,), (1e-3, 4e-3)) == (2e-3,), "two starts: the middle of the logarithmic axis"
    assert move_grid((1e-2, 1.0), (0.5,)) == (0.05, 1.0)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    data = texts.save_arc(tmp_path / f"arc-{tmp_path.name}")
    monkeypatch.setitem(tasks.TASKS, "arc-easy", replace(tasks.get("arc-easy"), dataset=str(data)))
    model = ModelSpec(id=str(texts.save_model(tmp_path / "model")), dtype="float32")
    recipe = Recipe(steps=1, batch_size=4, max_length=64)
    return [
        PlannedRun(
            RunSpec(
                model=model,
                method=MethodSpec(name=name),
                rank=2,
                alpha=4,
                data=DataSpec(tasks=("arc-easy",), revisions=(None,), validation_samples=2),
                recipe=recipe,
                learning_rate=rate,
            ),
            "arc-easy",
            (),
        )
        for name in ("lora", "pissa")
        for rate in (1e-4, 1e-3)
    ]


def test_suggestions_are_one_per_start_and_kept(planned, tmp_path, monkeypatch):
    store, notes = ResultStore(tmp_path / "runs"), []
    first = suggest_rates(planned, store, notes.append)
    assert list(first) == ["lora adamw", "pissa adamw"]
    assert all(0 < rate < 1 for rate in first.values())
    assert first["pissa adamw"] < first["lora adamw"], (
        "PiSSA's factors are those of the weights, and its steps go further"
    )
    monkeypatch.setattr(suggest, "measure", lambda *given: pytest.fail("measured again"))
    assert suggest_rates(planned, store) == first
    assert sum("suggests" in note for note in notes) == 2


def test_a_start_without_a_suggestion_costs_only_itself(planned, tmp_path, monkeypatch):
    def measure(spec, *given):
        if spec.method.name == "pissa":
            raise HubinitError("flat")
        return {"rate": 1e-3}

    monkeypatch.setattr(suggest, "measure", measure)
    notes = []
    assert suggest_rates(planned, ResultStore(tmp_path / "runs"), notes.append) == {"lora adamw": 1e-3}
    assert "pissa adamw: flat" in notes
    with pytest.raises(HubinitError, match="No start suggests"):
        suggest_rates(planned[2:], ResultStore(tmp_path / "other"))


def test_two_models_have_no_grid_in_common(planned, tmp_path):
    other = planned[0].spec.model_copy(update={"model": ModelSpec(id="org/other")})
    with pytest.raises(HubinitError, match="one model"):
        suggest_rates([*planned, PlannedRun(other, "arc-easy", ())], ResultStore(tmp_path))


def test_a_search_moves_each_methods_grid_and_other_protocols_the_common_one(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "pin", lambda name: None)
    monkeypatch.setattr(suggesting, "suggest_rates", lambda *given: {"lora adamw": 2e-3, "pissa adamw": 6e-5})
    request = Request((planned[0].spec.model.id,), ("lora", "pissa"), ("arc-easy",), rank=2, dtype="float32")
    searching = suggesting.with_suggested_rates(replace(request, protocol="fair"), tmp_path, dry_run=False)
    assert searching.shifts == {"lora adamw": 2, "pissa adamw": -1}
    assert searching.learning_rates is None
    common = suggesting.with_suggested_rates(replace(request, learning_rates=(1e-4, 1e-3)), tmp_path, dry_run=False)
    assert common.shifts is None
    middle = (2e-3 * 6e-5) ** 0.5
    assert common.learning_rates == pytest.approx((middle / 10**0.5, middle * 10**0.5), rel=0.05)
