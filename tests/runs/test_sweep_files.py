"""Files that say a whole sweep: what they inherit, what they may say, and what of them is stored."""

import json
from pathlib import Path

import pytest

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.models import names
from hubinit.records import ResultStore
from hubinit.runs.effective import write_sweep
from hubinit.runs.plan import Request, plan
from hubinit.runs.protocol import file_schema, read_protocol
from hubinit.specs import Protocol

DOCS = Path(__file__).parents[2] / "docs"
SWEEP = """
extends: base.yaml
models: [smollm2-135m]
methods: [lora, lora-da]
tasks: [arc-easy, piqa]
seeds: [3, 4]
recipe: {steps: 7}
budget: 8h
"""
BASE = """
extends: fair
rank: 4
learning_rates: [1e-4, 1e-3]
search: null
recipe: {batch_size: 8}
methods: {lora-da: {preset: paper}}
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "pin", lambda spec: spec.model_copy(update={"revision": "a" * 40}))
    monkeypatch.setattr(tasks, "pin", lambda name, revision=None: revision or "b" * 40)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return str(tmp_path / "sweep.yaml")


def write(sweep, text):
    Path(sweep).write_text(text)
    return sweep


def test_a_sweep_says_only_what_is_different(sweep):
    protocol = read_protocol(sweep, ("rank=2",))
    fair = read_protocol("fair")
    assert (protocol.rank, protocol.learning_rates, protocol.seeds, protocol.search) == (2, (1e-4, 1e-3), (3, 4), None)
    assert protocol.recipe == fair.recipe.model_copy(update={"steps": 7, "batch_size": 8})
    assert protocol.validation_samples == fair.validation_samples == 256
    assert (protocol.compare, protocol.methods) == (("lora", "lora-da"), {"lora-da": {"preset": "paper"}})
    assert (protocol.models, protocol.tasks) == (("smollm2-135m",), {"arc-easy": (), "piqa": ()})
    assert protocol.budget == "8h"


def test_what_it_sets_for_all_methods_holds_for_all_and_the_rest_of_the_parent_stays(sweep):
    parent = read_protocol("milora-math").per_method
    child = read_protocol(write(sweep, "{extends: milora-math, alpha: 16}"))
    assert {one.alpha for one in parent.values()} != {None}
    assert {one.alpha for one in child.per_method.values()} == {None}
    own = read_protocol(write(sweep, "{extends: milora-math, alpha: 16, per_method: {pissa: {alpha: 3}}}"))
    assert own.per_method["pissa"].alpha == 3
    assert "changes" in child.source, "a changed protocol is not its paper's"


def test_a_command_says_what_a_sweep_does_not(sweep, tmp_path):
    store = ResultStore(tmp_path)
    runs = plan(Request(protocol=sweep), store)
    assert len(runs) == 2 * 2 * 2 * 2  # methods, tasks, rates, seeds
    assert {run.spec.method.name for run in runs} == {"lora", "lora-da"}
    named = plan(Request(protocol=sweep, models=("llama3-8b",), methods=("pissa",), tasks=("boolq",)), store)
    assert {(run.spec.model.id, run.spec.method.name, run.group) for run in named} == {
        ("meta-llama/Meta-Llama-3-8B", "pissa", "boolq")
    }
    with pytest.raises(HubinitError, match="names no base model; add --models"):
        plan(Request(), store)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: sweep.yaml", "extends itself"),
        ("extends: fiar", r"There is not a protocol or YAML file '.*fiar': did you mean fair"),
        ("extends: [fair, quickstart]", "name one protocol or YAML file"),
        ("extend: fair", "did you mean extends"),
        ("{extends: fair, recipe: {stepz: 3}}", "Setting 'recipe.stepz' .* did you mean steps"),
        ("{extends: fair, budget: soon}", "Setting 'budget'"),
        ("methods: [filett]", "Unknown method 'filett': did you mean filet"),
    ],
)
def test_what_is_wrong_in_a_sweep_is_named(sweep, tmp_path, text, message):
    with pytest.raises(HubinitError, match=message):
        plan(Request(protocol=write(sweep, text), models=("smollm2-135m",)), ResultStore(tmp_path))


def test_the_effective_configuration_is_stored_and_can_be_run_again(sweep, tmp_path):
    store = ResultStore(tmp_path / "runs")
    request = Request(protocol=sweep, overrides=("recipe.steps=9",), rank=8)
    runs = plan(request, store)
    path = write_sweep(store, request, runs, "hubinit bench", budget_seconds=None)
    assert write_sweep(store, request, runs, "hubinit bench", budget_seconds=None) == path
    stored = json.loads(path.read_text())
    assert stored["runs"] == [run.spec.key for run in runs]
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(stored["protocol"]))
    assert [run.spec.key for run in plan(Request(protocol=str(again)), store)] == stored["runs"]


def test_the_published_schema_is_that_of_the_code():
    schema = json.loads((DOCS / "protocol.schema.json").read_text(encoding="utf-8"))
    assert schema == file_schema(), "hubinit protocols --schema > docs/protocol.schema.json"
    properties = schema["properties"]
    assert set(properties) == {"extends", *Protocol.model_fields}
    assert schema["additionalProperties"] is False
    assert {"type": "array", "items": {"type": "string"}} in properties["methods"]["anyOf"]
    assert "fair" in properties["extends"]["examples"]
