"""A plan reads no result that it has read before, and every one that has changed since."""

import json

import pytest

from hubinit.records import Provenance, ResultStore, RunResult, Score
from hubinit.runs.stored import StoredIndex, summarise
from hubinit.specs import EvalSpec, MethodSpec, ModelSpec, RunSpec

TASKS = ("piqa", "boolq", "arc-easy")


@pytest.fixture
def store(tmp_path):
    """Results of every kind."""
    made = Provenance(versions={}, hardware={}, command="x", created="2026-01-01")
    store = ResultStore(tmp_path)
    for seed, status in enumerate(("ok", "partial", "failed", "diverged")):
        spec = RunSpec(model=ModelSpec(id="org/one"), method=MethodSpec(name="lora"), rank=2, alpha=4, seed=seed)
        scores = [
            Score(task=task, metric=metric, value=0.5, n=1, eval=EvalSpec(task=task, limit=seed + 1))
            for task in TASKS[:seed]
            for metric in ("acc", "acc_norm")
        ]
        result = RunResult(key=spec.key, spec=spec, status=status, scores=tuple(scores), provenance=made)
        reason = "boolq without acc" if status == "partial" else None
        loss = float("nan") if status == "diverged" else 0.25
        store.write(result.model_copy(update={"reason": reason, "validation_loss": loss}))
    return store


def keys(store):
    return [path.parent.name for path in sorted(store.root.glob("runs/*/result.json"))]


def test_it_says_what_the_results_say_and_reads_each_once(store, monkeypatch):
    results = {result.key: result for result in store.results()}
    index = StoredIndex(store)
    for key in keys(store):
        index.find(key)
    index.save()
    monkeypatch.setattr(ResultStore, "read", None)  # whoever reads a result now fails
    again = StoredIndex(store)
    for key, result in results.items():
        found = again.find(key)
        assert repr(found) == repr(summarise(result)) or set(found.evaluations) == set(summarise(result).evaluations)
        assert (found.status, found.created) == (result.status, result.provenance.created)
        assert repr(found.validation_loss) == repr(result.validation_loss)
        for task in TASKS:
            for limit in (1, 2, 3, 4):
                evaluation = EvalSpec(task=task, limit=limit)
                assert found.scored(evaluation) == result.scored(evaluation)
    assert again.find("0" * 16) is None


def test_a_changed_result_is_read_again_and_a_damaged_one_is_told(store):
    index = StoredIndex(store)
    key, other, *_ = keys(store)
    index.find(key)
    index.find(other)
    index.save()
    result = store.read(key)
    store.write(result.model_copy(update={"status": "ok", "validation_loss": 7.0}))
    (store.folder(other) / "result.json").write_text("{")
    told, again = [], StoredIndex(store)
    assert again.find(key).validation_loss == 7.0
    assert again.find(other, told.append) is None
    assert "is not a readable run result" in told[0]


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 9, "results": {}}', "\x00"])
def test_a_damaged_index_is_no_obstacle(store, content):
    (store.root / "index.json").write_text(content)
    index = StoredIndex(store)
    assert all(index.find(key) is not None for key in keys(store))
    index.save()
    assert len(json.loads((store.root / "index.json").read_text())["results"]) == 4
