"""The diagnostics of whole runs, with a tiny model in memory."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubError
from hubinit.models.base import Loaded
from hubinit.runs import diagnosing
from hubinit.runs.costs import Stopwatch
from hubinit.runs.diagnosing import LAYERS
from hubinit.runs.full import train_weights
from hubinit.runs.job import Job
from hubinit.runs.stages import train_adapter
from hubinit.specs import FULL, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests import texts

POOL = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(8)]
PASSAGES = ["The sky is blue on a clear day.", "The sky is blue on a clear day.", "Some birds can fly.", "x"]
BASE = ModelSpec(id="tiny/llama", revision="a" * 40)


@pytest.fixture
def neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "training_examples", lambda data, seed: (POOL, []))
    monkeypatch.setattr(tasks, "pin", lambda name: "b" * 40)
    rows = datasets.Dataset.from_dict({"passage": PASSAGES})
    monkeypatch.setattr(diagnosing, "load_joined", lambda *arguments: rows)


def loaded() -> Loaded:
    return Loaded(texts.language_model(), texts.tokenizer(), BASE, torch.device("cpu"), torch.float32)


def job(folder: Path, method: str, *, diagnostics: bool = True) -> Job:
    spec = RunSpec(
        model=BASE,
        method=MethodSpec(name=method),
        rank=0 if method == FULL else 2,
        alpha=0 if method == FULL else 4,
        data=DataSpec(tasks=("boolq",)),
        recipe=Recipe(steps=3, batch_size=4, max_length=64),
        learning_rate=1e-2,
    )
    return Job(store=folder, spec=spec, diagnostics=diagnostics)


def cross_entropy(model: torch.nn.Module) -> tuple[float, int]:
    """The oracle: the mean over the next tokens of the distinct passages, one passage at a time and without labels."""
    values = []
    for passage in dict.fromkeys(PASSAGES):
        ids = torch.tensor(texts.tokenizer()(passage)["input_ids"])
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)  # (T, V)
        values += [-float(logs[place, token]) for place, token in enumerate(ids[1:].tolist())]
    return sum(values) / len(values), len(values)


@pytest.mark.parametrize("method", ["pissa", FULL])
def test_forgetting_is_the_cross_entropy_after_minus_before(method: str, neutral: None, tmp_path: Path) -> None:
    before, tokens = cross_entropy(texts.language_model())
    doing = train_weights if method == FULL else train_adapter
    model, fields = doing(job(tmp_path, method), loaded(), tmp_path / "run", Stopwatch(), lambda progress: None)
    found = fields["diagnostics"]
    assert found.forgetting.tokens == tokens
    assert found.forgetting.before == pytest.approx(before, rel=1e-5)
    assert found.forgetting.after == pytest.approx(cross_entropy(model)[0], rel=1e-5)
    assert found.forgetting.difference == pytest.approx(found.forgetting.after - before, rel=1e-4)
    assert found.input_tokens_per_second > found.label_tokens_per_second > 0
    assert found.unmeasured == {}
    if method != FULL:
        layers = json.loads((tmp_path / "run" / LAYERS).read_text())
        assert len(layers) == 14  # 7 in each of 2 blocks
        mean = sum(layer["input_angle"] for layer in layers.values()) / 14
        assert found.drift.input_angle == pytest.approx(mean)
        assert found.first_update.cosine > 0 and all(layer["first_cosine"] is not None for layer in layers.values())


def test_without_asking_only_what_is_free_is_measured(neutral: None, tmp_path: Path) -> None:
    _, fields = train_adapter(
        job(tmp_path, "lora", diagnostics=False), loaded(), tmp_path / "run", Stopwatch(), lambda progress: None
    )
    found = fields["diagnostics"]
    assert found.drift.input_angle > 0 and found.input_tokens_per_second > 0
    assert (found.first_update, found.forgetting, found.unmeasured) == (None, None, {})


def test_a_neutral_text_that_cannot_be_had_costs_only_itself(
    neutral: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def away(name: str) -> str:
        raise HubError("The Hub does not answer.")

    monkeypatch.setattr(tasks, "pin", away)
    _, fields = train_adapter(job(tmp_path, "lora"), loaded(), tmp_path / "run", Stopwatch(), lambda progress: None)
    found = fields["diagnostics"]
    assert found.unmeasured == {"forgetting": "The Hub does not answer."}
    assert found.forgetting is None and found.first_update is not None
