"""The losses that are trained: sums over a micro batch, divided by what the whole optimiser step counts."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from hubinit.data.encode import IGNORED

Loss = Callable[..., Tensor]  # (outputs, labels, num_items_in_batch)


def completion_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The negative log-likelihood of the label tokens, divided by the label tokens of the whole optimiser step."""
    targets = labels[:, 1:]  # (B, T - 1): position t predicts token t + 1
    kept = targets != IGNORED  # (B, T - 1)
    logits = outputs.logits[:, :-1][kept].float()  # (label tokens, V)
    total = cross_entropy(logits, targets[kept], reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else kept.sum())


def image_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The cross-entropy of the classes, divided by the images of the whole optimiser step."""
    total = cross_entropy(outputs.logits.float(), labels, reduction="sum")  # logits (B, classes)
    return total / (num_items_in_batch if num_items_in_batch is not None else len(labels))


def add_penalty(loss: Loss, penalty: Callable[[], Tensor]) -> Loss:
    """A loss with a term that counts once per optimiser step, however the step is cut into micro batches.

    Each micro batch carries the share of the term that it has of the step's label tokens (images).
    """

    def penalised(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        own = (labels != IGNORED).sum()
        share = own / num_items_in_batch if num_items_in_batch is not None else 1
        return loss(outputs, labels, num_items_in_batch) + share * penalty()

    return penalised
