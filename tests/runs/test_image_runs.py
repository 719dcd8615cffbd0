"""Runs of image classifiers: the linear probe beside the adapters, one head for all methods of a seed, scores and rescoring."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file

from hubinit import tasks
from hubinit.leaderboard.boards import boards
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.table import table
from hubinit.models.base import load
from hubinit.models.names import resolve
from hubinit.records import ResultStore, RunResult
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.sweep import jobs
from hubinit.runs.worker import Worker
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.target import load_target
from hubinit.specs import EvalSpec
from tests import cases
from tests.texts import save_dataset

SETTINGS = ("recipe.steps=12", "recipe.batch_size=8", "recipe.micro_batch_size=8", "validation_samples=4", "limit=12")
REQUEST = Request(
    models=("",), methods=("none", "filet"), tasks=("digits",), seeds=(0, 1), learning_rates=(1e-2,), rank=2,
    overrides=SETTINGS, calibration_samples=8,
)  # fmt: skip


def do(request: Request, store: ResultStore) -> tuple[list[PlannedRun], list[RunResult]]:
    planned = plan(request, store)
    worker = Worker(lambda event: None)
    for job in jobs(planned, store, eval_batch_size=8, force=False):
        worker.do(job)
    return planned, [store.read(run.spec.key) for run in planned]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny CLIP with its text tower, in a folder, and three classes that differ in brightness."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder, data = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "projection_dim": 32,
    }
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 16, "patch_size": 8}, text_config={**sizes, "vocab_size": cases.VOCAB}
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    images = [Image.new("L", (16, 16), 20 + 100 * (index % 3) + index % 7) for index in range(48)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["dark", "grey", "light"])})
    split = Dataset.from_dict({"image": images, "label": [index % 3 for index in range(48)]}, features=features)
    save_dataset(data / data.name, "default", {"train": split, "test": split})
    with pytest.MonkeyPatch.context() as patch:
        task = replace(tasks.get("digits"), dataset=str(data / data.name), config=None)
        patch.setitem(tasks.TASKS, "digits", task)
        yield folder


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultStore, list[RunResult]]:
    store = ResultStore(tmp_path_factory.mktemp("runs"))
    return store, do(replace(REQUEST, models=(str(base),)), store)[1]


def of(results: list[RunResult], method: str, seed: int) -> RunResult:
    (found,) = [r for r in results if (r.spec.method.name, r.spec.seed) == (method, seed)]
    return found


def head(folder: Path) -> torch.Tensor:
    (weight,) = [
        tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        if name.endswith("classifier.weight")
    ]
    return weight


def test_none_is_a_linear_probe_with_everybodys_data_and_recipe(done: tuple[ResultStore, list[RunResult]]) -> None:
    _, results = done
    assert [(r.status, r.reason) for r in results] == [("ok", None)] * 4
    for seed in (0, 1):
        probe, adapter = of(results, "none", seed), of(results, "filet", seed)
        assert (probe.spec.rank, probe.spec.calibration, probe.trainable_parameters) == (0, None, 3 * 32 + 3)
        assert (probe.spec.data, probe.spec.recipe) == (adapter.spec.data, adapter.spec.recipe)
        assert probe.spec.learning_rate == adapter.spec.learning_rate
        assert probe.scores[0].value > 0.6, "a third would be chance"
        assert probe.validation_loss is not None
        assert probe.gates["reload"] == 0


def test_all_methods_of_a_seed_begin_with_one_head_and_train_it(done: tuple[ResultStore, list[RunResult]]) -> None:
    store, results = done
    starts = {(r.spec.method.name, r.spec.seed): head(store.folder(r.key) / "init") for r in results}
    for seed in (0, 1):
        assert torch.equal(starts["filet", seed], starts["none", seed])
    assert not torch.equal(starts["none", 0], starts["none", 1])
    for r in results:
        assert not torch.equal(head(store.folder(r.key) / "adapter"), starts[r.spec.method.name, r.spec.seed])


def test_each_seed_calibrates_with_its_own_head(done: tuple[ResultStore, list[RunResult]]) -> None:
    store, _ = done
    assert len(list((store.root / "calibrations").glob("*/*.json"))) == 2


def test_a_rerun_is_free_and_a_further_score_reuses_the_trained_head(
    base: Path, done: tuple[ResultStore, list[RunResult]]
) -> None:
    store, before = done
    request = replace(REQUEST, models=(str(base),))
    assert {run.state for run in plan(request, store)} == {"cached"}
    more = replace(request, methods=("none",), seeds=(1,), overrides=(*SETTINGS[:-1], "limit=24"))
    (run,), (after,) = do(more, store)
    assert run.state == "evaluate"
    assert [score.n for score in after.scores] == [12, 24]
    assert after.adapter_sha256 == of(before, "none", 1).adapter_sha256


def test_the_probe_on_disk_is_scored_like_any_adapter(base: Path, done: tuple[ResultStore, list[RunResult]]) -> None:
    store, results = done
    probe = of(results, "none", 0)
    model, processor = load_target(str(store.folder(probe.key) / "adapter"), ["digits"], "float32")
    scored = evaluate_one(model, processor, EvalSpec(task="digits", limit=12), batch_size=4)
    assert scored.scores[0].value == probe.scores[0].value


def test_the_probe_is_a_line_of_the_table_of_its_data_and_recipe(done: tuple[ResultStore, list[RunResult]]) -> None:
    (board,) = boards(rank(table(done[1])))
    assert sorted(board.labels) == ["filet", "none (linear probe)"]
    place = board.labels.index("none (linear probe)")
    cells = {column.name: column.cells[place].text for column in board.columns}
    assert (cells["LR"], cells["seeds"]) == ("0.01", "2")


@pytest.mark.parametrize("classes", [cases.LABELS, cases.LABELS + 1])
def test_every_architecture_gets_a_head_by_one_rule(base: Path, classes: int, tmp_path: Path) -> None:
    """Also in place of a trained head for other classes that are as many."""
    heads: dict[str, Any] = {}
    for name in cases.VISION:
        folder = tmp_path / name
        cases.build(name).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_bytes((base / "preprocessor_config.json").read_bytes())
        labels = [str(index) for index in range(classes)]
        heads[name] = load(resolve(str(folder)), "cpu", labels=labels, seed=4).model.classifier
        assert not heads[name].bias.any()
    assert torch.equal(heads["vit"].weight, heads["clip"].weight), "the same shape, so the same numbers"
    for one in heads.values():
        assert float(one.weight.detach().std()) == pytest.approx(0.02, rel=0.25)
