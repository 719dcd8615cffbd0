"""The stages of one run, with a tiny model in memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftConfig

import hubinit
from hubinit import tasks
from hubinit.adapters.calibrating import statistics_of
from hubinit.adapters.freezing import frozen_in
from hubinit.data.encode import Example
from hubinit.models.base import Loaded
from hubinit.records import Item, Provenance, ResultStore, Score
from hubinit.runs import stages
from hubinit.runs.costs import Stopwatch
from hubinit.runs.job import Job
from hubinit.runs.stages import attach_start, calibrate_run, score, train_adapter
from hubinit.scoring import Scored
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training.optimisers import OPTIMISERS
from tests import cases, definitions, texts
from tests.scoring import fake_vllm

PROVENANCE = Provenance(versions={}, hardware={}, command="", created="")


def test_the_start_knows_the_length_of_the_training_set_and_an_option_wins() -> None:
    base = cases.build("llama")
    calibration = hubinit.calibrate(base, cases.batches("llama"), methods=["lora-da"])
    loaded: Any = SimpleNamespace(model=base)
    for options, expected in (({}, 4321), ({"population_size": 7}, 7)):
        method = MethodSpec(name="lora-da", options=options)
        spec = RunSpec(model=ModelSpec(id="org/tiny"), method=method, rank=2, alpha=4)
        model = attach_start(spec, loaded, calibration, population=4321)
        assert model.hubinit_report.summary()["population_size_mean"] == expected
        hubinit.detach(model)


def test_a_run_pays_for_its_own_statistics_and_names_what_the_shared_pass_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(8)]
    monkeypatch.setattr(tasks, "training_examples", lambda data, seed: (pool, []))
    base = ModelSpec(id="tiny/llama", revision="a" * 40)
    loaded = Loaded(texts.language_model(), texts.tokenizer(), base, torch.device("cpu"), torch.float32)
    specs = [
        RunSpec(
            model=base,
            method=MethodSpec(name=name),
            rank=2,
            alpha=4,
            data=DataSpec(tasks=("boolq",)),
            calibration=CalibrationSpec(samples=8, max_length=64),
        )
        for name in ("eva", "lora-da")
    ]
    costs = []
    for spec in specs:
        watch = Stopwatch()
        found = calibrate_run(Job(store=tmp_path, spec=spec, peers=tuple(specs)), loaded, watch, lambda progress: None)
        costs.append(watch.costs["calibrate"])
        assert costs[-1].seconds == found.seconds_for(statistics_of(spec.method.name, {}))
        assert costs[-1].shared_seconds == found.seconds
    assert 0 < costs[0].seconds < costs[1].seconds < costs[1].shared_seconds


def test_vllm_writes_the_free_texts_and_its_scores_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "definitions").mkdir()
    definitions.use(tmp_path / "definitions", monkeypatch)
    fake_vllm.use(monkeypatch)
    base = ModelSpec(id=str(texts.save_model(tmp_path / "base")), dtype="float32")
    loaded = Loaded(texts.language_model(), texts.tokenizer(), base, torch.device("cpu"), torch.float32)
    spec = RunSpec(model=base, method=MethodSpec(name="none"), rank=0, alpha=0)
    evaluations = [EvalSpec(task="lm-eval:free", shots=2), EvalSpec(task="lm-eval:small")]
    job = Job(store=tmp_path / "store", spec=spec, engine="vllm")
    scores, reasons = score(
        loaded.model, loaded, evaluations, job, ResultStore(job.store), lambda progress: None, PROVENANCE
    )
    assert reasons == []
    versions = {one.eval.task: one.provenance and one.provenance.versions for one in scores}
    assert versions == {"lm-eval:free": {"vllm": "0.99"}, "lm-eval:small": None}
    assert len(fake_vllm.CALLS["prompts"]) == 3
    assert fake_vllm.CALLS["generate"]["lora_request"] is None


@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
def test_a_run_with_each_optimiser_passes_the_gates(
    optimiser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it freezes is frozen in training only: the start is the same whatever trains it."""
    pool = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(8)]
    monkeypatch.setattr(tasks, "training_examples", lambda data, seed: (pool, []))
    base = ModelSpec(id="tiny/llama", revision="a" * 40)
    loaded = Loaded(texts.language_model(), texts.tokenizer(), base, torch.device("cpu"), torch.float32)
    spec = RunSpec(
        model=base,
        method=MethodSpec(name="pissa"),
        rank=2,
        alpha=2,
        data=DataSpec(tasks=("boolq",)),
        recipe=Recipe(steps=3, batch_size=4, max_length=32, warmup_ratio=0, optimiser=optimiser),
        learning_rate=1e-2,
    )
    model, facts = train_adapter(Job(store=tmp_path, spec=spec), loaded, tmp_path, Stopwatch(), lambda progress: None)
    assert {"start", "trained", "reload"} <= facts["gates"].keys()
    factors = {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert factors == {"lora_B"} if optimiser in ("frozen-a", "lora-fa") else factors == {"lora_A", "lora_B"}
    assert facts["trainable_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert frozen_in(tmp_path / "init", PeftConfig.from_pretrained(str(tmp_path / "init"))) == ()
    hubinit.detach(model)


def test_what_a_scorer_leaves_out_is_a_reason_beside_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = EvalSpec(task="e2e")
    found = Scored(
        [Score(task="e2e", metric="bleu", value=0.5, n=1, eval=wanted)], [Item(id="0")], ("METEOR: needs Java.",)
    )
    monkeypatch.setattr(stages, "evaluate_one", lambda *arguments, **options: found)
    base = ModelSpec(id="tiny/llama", revision="a" * 40)
    loaded = Loaded(texts.language_model(), texts.tokenizer(), base, torch.device("cpu"), torch.float32)
    spec = RunSpec(model=base, method=MethodSpec(name="lora"), rank=2, alpha=4)
    scores, reasons = stages.score(
        loaded.model,
        loaded,
        [wanted],
        Job(store=tmp_path, spec=spec),
        ResultStore(tmp_path),
        lambda progress: None,
        PROVENANCE,
    )
    assert [score.metric for score in scores] == ["bleu"]
    assert reasons == ["e2e without METEOR: needs Java"]
