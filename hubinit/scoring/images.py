"""Image classification: plain accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hubinit.data.encode import collate_images
from hubinit.records import Item
from hubinit.scoring.batching import in_batches
from hubinit.scoring.spec import Progress, Scored, Scorer, mean_scores
from hubinit.specs import EvalSpec
from hubinit.tasks import images
from hubinit.tasks.spec import Document, Task


def score_images(
    task: Task, model: Any, processor: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> Scored:
    """Accuracy of an image classifier on the task's test split."""
    split = images.split(task, task.test_split, evaluation.revision)
    names = images.class_names(task, evaluation.revision)
    total = min(len(split), evaluation.limit or len(split))
    device = next(model.parameters()).device
    items: list[Item] = []

    def classify(rows: Sequence[int]) -> None:
        batch = collate_images([split.example(row) for row in rows], processor)
        predicted = model(pixel_values=batch["pixel_values"].to(device)).logits.argmax(-1).tolist()  # (B,)
        for row, choice, label in zip(rows, predicted, batch["labels"].tolist(), strict=True):
            items.append(graded(str(row), names[choice], names[label]))
        on_progress(len(items), total)

    with torch.no_grad():
        in_batches(range(total), batch_size, classify)
    return Scored(mean_scores(items, task, evaluation), items)


def grade_images(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """Accuracy of recorded class names, or of class indices where the output is not a name."""
    names = images.class_names(task, evaluation.revision)
    known = {str(index): name for index, name in enumerate(names)} | {name: name for name in names}
    items = [
        graded(key, known.get(output.strip(), output.strip()), names[int(document[task.label_column])])
        for (key, document), (output, *_) in zip(documents.items(), outputs, strict=True)
    ]
    return Scored(mean_scores(items, task, evaluation), items)


def graded(key: str, chosen: str, right: str) -> Item:
    """One image with the class that was chosen for it."""
    return Item(id=key, outputs=(chosen,), extracted={"acc": chosen}, values={"acc": float(chosen == right)})


ACCURACY = Scorer(
    name="accuracy",
    title="share of images whose likeliest class is theirs",
    score=score_images,
    grade=grade_images,
)
