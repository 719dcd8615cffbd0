"""Ranks that train about as much as plain LoRA, held to counts by hand and to what the methods really train."""

import math

import pytest

from hubinit import adapters, tasks
from hubinit.models import names
from hubinit.models.layers import target_layers
from hubinit.models.shapes import outline
from hubinit.records import ResultStore
from hubinit.runs.matching import at_rank, count_parameters, match_rank
from hubinit.runs.plan import Request, plan
from hubinit.specs import MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training import optimisers
from tests import cases


@pytest.fixture
def model(tmp_path):
    cases.build("llama").save_pretrained(tmp_path / "llama")
    return ModelSpec(id=str(tmp_path / "llama"), dtype="float32")


def run(model, method, optimiser="adamw", rank=4, **more):
    recipe = Recipe(optimiser=optimiser)
    return RunSpec(model=model, method=MethodSpec(name=method), rank=rank, alpha=2.0 * rank, recipe=recipe, **more)


def by_hand(shapes, method, optimiser, rank):
    """Trained parameters by the formulas of the papers, over the shapes (m, n) of the adapted layers."""
    per_layer = {
        ("lora", "adamw"): lambda m, n: rank * (m + n),
        ("lora", "frozen-a"): lambda m, n: rank * m,
        ("lora-da", "frozen-a"): lambda m, n: rank * m,
        ("mica", "adamw"): lambda m, n: rank * n,
        ("dora", "adamw"): lambda m, n: rank * (m + n) + m,
        ("peft:vera", "adamw"): lambda m, n: rank + m,
    }
    return sum(per_layer[method, optimiser](m, n) for m, n in shapes)


@pytest.mark.parametrize(
    ("method", "optimiser"),
    [("lora", "frozen-a"), ("lora-da", "frozen-a"), ("mica", "adamw"), ("dora", "adamw"), ("peft:vera", "adamw")],
)
def test_the_rank_is_the_nearest_of_all_unless_that_does_not_halve_the_difference(model, method, optimiser):
    shapes = [tuple(layer.weight.shape) for layer in target_layers(outline(model)[0], "all-linear").values()]
    wanted = by_hand(shapes, "lora", "adamw", 4)
    left = {r: abs(by_hand(shapes, method, optimiser, r) - wanted) for r in range(1, min(map(min, shapes)) + 1)}
    nearest = min(left, key=left.__getitem__)
    expected = nearest if 2 * left[nearest] <= left[4] else 4
    found = match_rank(run(model, method, optimiser), run(model, "lora"))
    assert found.rank == expected
    assert found.alpha == pytest.approx(2.0 * expected), "the scaling is 2, as before"
    assert found.model_copy(update={"rank": 4, "alpha": 8.0}) == run(model, method, optimiser)
    assert (expected != 4) == (method not in {"dora", "peft:vera"}), "the case tests what it is for"


def test_what_is_counted_is_what_is_trained(model):
    base = cases.build("llama")
    for method, optimiser in (
        ("dora", "adamw"),
        ("mica", "adamw"),
        ("pissa", "frozen-a"),
        ("kasa", "adamw"),
        ("neat", "adamw"),
    ):
        spec = run(model, method, optimiser)
        real = adapters.initialize(base, method, rank=4, alpha=8.0)
        optimisers.get(optimiser).build(real, 1e-3, spec.recipe)
        assert count_parameters(spec) == sum(p.numel() for p in real.parameters() if p.requires_grad), method
        adapters.detach(base)


def test_rslora_keeps_its_scaling_and_a_plain_lora_its_rank(model):
    moved = match_rank(run(model, "mica", rslora=True), run(model, "lora"))
    assert moved.alpha / math.sqrt(moved.rank) == pytest.approx(8.0 / math.sqrt(4))
    assert moved.rank > 4
    assert match_rank(run(model, "pissa"), run(model, "lora")) == run(model, "pissa")
    assert match_rank(run(model, "peft:ia3"), run(model, "lora")) == run(model, "peft:ia3"), "it has no rank"
    assert at_rank(run(model, "lora"), 4) == run(model, "lora")


def test_a_plan_moves_what_a_protocol_leaves_to_it_and_says_so(model, monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "pin", lambda name: f"{name:0<40}")
    monkeypatch.setattr(names, "pin", lambda spec: spec)
    notes = []

    def ranks(*overrides, rank=None):
        notes.clear()
        request = Request(
            (model.id,),
            ("lora", "pissa", "mica"),
            ("arc-easy",),
            seeds=(0,),
            rank=rank,
            dtype="float32",
            protocol="fair",
            overrides=overrides,
        )
        planned = plan(request, ResultStore(tmp_path / "none"), on_note=notes.append)
        return {run.spec.method.name: run.spec.rank for run in planned}

    matched = ranks(rank=4)
    assert matched["lora"] == matched["pissa"] == 4
    assert matched["mica"] > 4
    assert f"at rank 4: rank {matched['mica']} (" in notes[0]
    assert ranks("match_parameters=false", rank=4) == dict.fromkeys(matched, 4)
    assert not notes
    assert ranks("per_method.mica.rank=5") == {"lora": 16, "pissa": 16, "mica": 5}
