"""Image classification: plain accuracy."""

from typing import Any

import torch

from hubinit.data.encode import collate_images
from hubinit.records import Score
from hubinit.scoring.spec import Progress, Scorer, mean_score
from hubinit.specs import EvalSpec
from hubinit.tasks import images
from hubinit.tasks.spec import Task


def score_images(
    task: Task, model: Any, processor: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> list[Score]:
    """Accuracy of an image classifier on the task's test split."""
    split = images.split(task, task.test_split, evaluation.revision)
    total = min(len(split), evaluation.limit or len(split))
    device = next(model.parameters()).device
    right: list[float] = []
    with torch.no_grad():
        for start in range(0, total, batch_size):
            batch = collate_images(
                [split.example(row) for row in range(start, min(start + batch_size, total))], processor
            )
            predicted = model(pixel_values=batch["pixel_values"].to(device)).logits.argmax(-1).cpu()  # (B,)
            right += (predicted == batch["labels"]).float().tolist()
            on_progress(len(right), total)
    return [mean_score(right, task=task, metric="acc", primary=True, evaluation=evaluation)]


ACCURACY = Scorer(name="accuracy", title="share of images whose likeliest class is theirs", score=score_images)
