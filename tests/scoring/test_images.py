from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hubinit import tasks
from hubinit.scoring import score_outputs
from hubinit.scoring.evaluate import SCORERS, evaluate_one
from hubinit.specs import EvalSpec
from tests.scoring.test_batching import memory_for
from tests.texts import save_dataset


def test_every_task_names_a_scorer_that_exists() -> None:
    assert {task.scorer for task in tasks.TASKS.values()} <= set(SCORERS)


def test_images_are_classified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8,
        num_labels=3, initializer_range=0.5,
    )  # fmt: skip
    model, processor = ViTForImageClassification(config).eval(), ViTImageProcessor(size={"height": 16, "width": 16})
    images = [Image.effect_noise((16, 16), 40 * index + 20) for index in range(5)]
    with torch.no_grad():
        pixels = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        predicted = model(pixels).logits.argmax(-1).tolist()
    labels = [predicted[0], predicted[1], predicted[2], (predicted[3] + 1) % 3, (predicted[4] + 1) % 3]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b", "c"])})
    split = Dataset.from_dict({"image": images, "label": labels}, features=features)
    folder = save_dataset(tmp_path / tmp_path.name, "default", {"train": split.select([0]), "test": split})
    monkeypatch.setitem(tasks.TASKS, "digits", replace(tasks.get("digits"), dataset=str(folder)))
    scored = evaluate_one(model, processor, EvalSpec(task="digits"), batch_size=2)
    (score,) = scored.scores
    chosen = ["abc"[choice] for choice in predicted]
    assert [item.id for item in scored.items] == ["0", "1", "2", "3", "4"]
    assert [(item.outputs, item.extracted) for item in scored.items] == [((name,), {"acc": name}) for name in chosen]
    assert [item.values["acc"] for item in scored.items] == [1, 1, 1, 0, 0]
    for recorded in (chosen, [str(choice) for choice in predicted], [f" {name}\n" for name in chosen]):
        again = score_outputs("digits", recorded)
        assert again.scores == scored.scores
        assert [item.values for item in again.items] == [item.values for item in scored.items]
    assert score_outputs("digits", ["", "3", "d", "A", "-1"]).scores[0].value == 0, "neither a class nor an index"
    assert (score.metric, score.value, score.n, score.primary) == ("acc", pytest.approx(0.6), 5, True)
    (score,) = evaluate_one(model, processor, EvalSpec(task="digits", limit=4), batch_size=3).scores
    assert (score.value, score.n) == (pytest.approx(0.75), 4)
    with memory_for(model, 2) as fitted:
        assert evaluate_one(model, processor, EvalSpec(task="digits", limit=4), batch_size=4).scores == [score]
    assert fitted == [2, 2]
