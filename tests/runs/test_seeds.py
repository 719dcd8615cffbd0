"""Data order, first factors and dropout have a seed each: whole runs of a tiny model, in which one of them changes."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.models import names
from hubinit.models.kinds import head_seed, start_of
from hubinit.records import ResultStore
from hubinit.runs.job import Job
from hubinit.runs.plan import Request, plan
from hubinit.runs.worker import Worker
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests import texts

POOL = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(12)]
Left = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[float]]  # start, end, losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Does a run and gives what it left."""

    def training_examples(data: DataSpec, seed: int) -> tuple[list[Example], list[Example]]:
        return Random(seed).sample(POOL, 8), POOL[:2]

    monkeypatch.setattr(tasks, "training_examples", training_examples)
    worker = Worker(lambda event: None)

    def do(dropout: float = 0.0, **seeds: int) -> Left:
        spec = RunSpec(
            model=ModelSpec(id=str(folder), dtype="float32"),
            method=MethodSpec(name="lora"),
            rank=2,
            alpha=4,
            data=DataSpec(tasks=("boolq",)),
            recipe=Recipe(steps=3, batch_size=4, micro_batch_size=4, warmup_ratio=0.0, lora_dropout=dropout),
            learning_rate=1e-2,
            **seeds,
        )
        worker.do(Job(store=tmp_path, spec=spec, device="cpu"))
        result = ResultStore(tmp_path).read(spec.key)
        assert result is not None and result.status == "ok", result
        run = ResultStore(tmp_path).folder(spec.key)
        start, end = (load_file(run / part / "adapter_model.safetensors") for part in ("init", "adapter"))
        return start, end, [point.loss for point in result.curve]

    return do


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_each_seed_moves_its_own_source_of_chance_and_nothing_else(left: Any) -> None:
    start, end, losses = left(dropout=0.5)
    other_start, other_end, other_losses = left(dropout=0.5, data_seed=1)
    assert equal(other_start, start)
    assert not equal(other_end, end)
    other_start, other_end, other_losses = left(dropout=0.5, init_seed=1)
    assert not equal(other_start, start)
    assert other_losses[0] == losses[0], "B is zero at the start: the first loss is that of the same first batch"
    other_start, other_end, other_losses = left(dropout=0.5, dropout_seed=1)
    assert equal(other_start, start)
    assert not equal(other_end, end)
    assert other_losses[0] == losses[0]
    assert left(data_seed=1)[2][0] != losses[0], "another first batch"
    moved = left(dropout=0.5, seed=1, data_seed=0, init_seed=0, dropout_seed=0)
    assert equal(moved[0], start) and equal(moved[1], end) and moved[2] == losses, "nothing else hangs on the seed"


def test_without_dropout_its_seed_changes_nothing(left: Any) -> None:
    start, end, losses = left()
    other_start, other_end, other_losses = left(dropout_seed=9)
    assert equal(other_start, start) and equal(other_end, end) and other_losses == losses


def test_a_fresh_head_and_the_start_go_by_the_seed_of_the_factors() -> None:
    spec = RunSpec(model=ModelSpec(id="a/b", kind="vision"), method=MethodSpec(name="lora"), rank=2, alpha=4, seed=3)
    moved = spec.model_copy(update={"seed": 5, "init_seed": 3, "data_seed": 7})
    assert head_seed(moved) == head_seed(spec) == 3
    assert start_of(moved).key == start_of(spec).key


def test_a_seed_of_a_protocol_holds_for_all_its_runs_and_is_not_said_where_it_is_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "pin", lambda spec: spec)
    monkeypatch.setattr(tasks, "pin", lambda name: "a" * 40)
    store = ResultStore(tmp_path)
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("boolq",), seeds=(0, 1), dtype="float32")
    plain = [run.spec for run in plan(request, store)]
    fixed = [run.spec for run in plan(Request(**{**vars(request), "overrides": ("data_seed=0",)}), store)]
    assert [spec.seed_of("data") for spec in fixed] == [0, 0]
    assert [spec.seed_of("init") for spec in fixed] == [0, 1]
    assert fixed[0].key == plain[0].key
    assert fixed[1].key != plain[1].key
