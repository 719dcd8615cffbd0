"""What eval is pointed at: the right head for the task, or one sentence."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import hubinit
from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.models.base import load
from hubinit.models.names import resolve
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.target import load_target
from hubinit.specs import EvalSpec
from tests.texts import save_dataset, save_model


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name, classes in (("digits", ["a", "b", "c"]), ("fashion-mnist", ["p", "q"])):
            images = [Image.effect_noise((16, 16), 40 * index + 20) for index in range(3)]
            features = Features({"image": ImageFeature(), "label": ClassLabel(names=classes)})
            split = Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=features)
            path = save_dataset(folder / name, "default", {"train": split, "test": split})
            patch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset=str(path), config=None))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8,
        initializer_range=0.5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with a head for the three classes of `digits`."""
    folder = tmp_path_factory.mktemp("adapter")
    loaded = load(resolve(str(base)), "cpu", labels=tasks.labels("digits"), seed=7)
    model = hubinit.initialize(loaded.model, "lora", rank=2)
    hubinit.export(model, folder, base=str(base))
    return folder


def test_an_adapter_is_scored_with_the_head_it_was_trained_with(base: Path, adapter: Path) -> None:
    model, processor = load_target(str(adapter), ["digits"])
    head = load(resolve(str(base)), "cpu", labels=tasks.labels("digits"), seed=7).model.classifier.weight
    found = [value for name, value in model.named_parameters() if "classifier" in name and value.shape == head.shape]
    assert any(torch.equal(value, head) for value in found), "the saved head, not a new one"
    (score,) = evaluate_one(model, processor, EvalSpec(task="digits"), batch_size=2).scores
    assert score.n == 3


def test_an_untrained_head_is_refused(base: Path) -> None:
    with pytest.raises(HubinitError, match="an image classifier without a trained head"):
        load_target(str(base), ["digits"])


def test_a_head_of_other_classes_is_refused(adapter: Path) -> None:
    with pytest.raises(HubinitError, match="trained with 3 classes, not for 'fashion-mnist'"):
        load_target(str(adapter), ["fashion-mnist"])


def test_one_head_is_for_one_task(adapter: Path) -> None:
    with pytest.raises(HubinitError, match="score one task at a time"):
        load_target(str(adapter), ["digits", "fashion-mnist"])


def test_a_task_of_another_kind_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(HubinitError, match="'arc-easy' is a language task"):
        load_target(str(base), ["arc-easy"])
    with pytest.raises(HubinitError, match="'digits' is a vision task"):
        load_target(str(save_model(tmp_path)), ["arc-easy", "digits"])
