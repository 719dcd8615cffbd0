"""Which rows of a layer's input count, and to which example they belong.

A layer sees rows, whatever the model folds them from: (B, S, n), (B·S, n) in OPT, (B, n) after pooling. Rows are matched with
the batch by their number, in batch-major order:

- B·S rows, with a mask (B, S) or labels (B, S): the attended tokens count. With `tokens="labels"` the label positions count on
  the side of the inputs, as in EVA, and the positions that predict a label on the side of the gradients, as in LoRA-DA. In an
  encoder-decoder both sequences have their own mask; a batch in which they have the same length gets one more masked label, so
  that the number decides.
- any other number (image patches, pooled vectors, tokens routed to an expert): all rows count. Padding that is routed to an
  expert cannot be told from tokens there; its gradients are zero, so only input sums notice. Use unpadded batches then.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import torch
from torch import Tensor, nn

from hubinit.calibration.loss import Batch, Supervision, is_encoder_decoder, predicting_positions
from hubinit.data.encode import IGNORED
from hubinit.errors import CalibrationError


class Side(Enum):
    """What a sum is made of; each side has its own rows that count."""

    INPUT = "inputs"
    GRADIENT = "gradients"
    ALL = "the full gradient"  # all attended tokens, whatever else counts


@dataclass
class Rows:
    """The rows of one batch.

    Attributes:
        examples: B.
        masks: side → number of rows → (rows,) bool of those that count.
        scales: (B,) 1 / L_i, or None when no gradients are asked for.
    """

    examples: int
    masks: dict[Side, dict[int, Tensor]]
    scales: Tensor | None
    _cache: dict[tuple[int, torch.device, Side, str], Tensor | None] = field(default_factory=dict)

    def index(self, rows: int, device: torch.device, side: Side) -> Tensor | None:
        """(T,) the rows that count, or None for all."""
        key = (rows, device, side, "index")
        if key not in self._cache:
            mask = self.masks[side].get(rows)
            # The common case, no padding, copies nothing.
            self._cache[key] = None if mask is None or bool(mask.all()) else mask.nonzero().squeeze(1).to(device)
        return self._cache[key]

    def count(self, rows: int, device: torch.device, side: Side) -> int:
        """T."""
        index = self.index(rows, device, side)
        return rows if index is None else len(index)

    def select(self, activations: Tensor, side: Side) -> Tensor:
        """The rows that count (T, d) of activations (…, d)."""
        flat = activations.detach().reshape(-1, activations.shape[-1])
        index = self.index(len(flat), flat.device, side)
        return flat if index is None else flat[index]

    def weights(self, rows: int, device: torch.device, dtype: torch.dtype, name: str, side: Side) -> Tensor:
        """(T,) 1 / L_i of the example that each counted row belongs to."""
        assert self.scales is not None
        if rows % self.examples:
            raise CalibrationError(
                f"{name} sees {rows} rows of {self.examples} examples, which cannot be told apart: use a batch size of 1."
            )
        key = (rows, device, side, "weights")
        if key not in self._cache:
            scales = self.scales.repeat_interleave(rows // self.examples).to(device)  # (rows,)
            index = self.index(rows, device, side)
            self._cache[key] = scales if index is None else scales[index]
        weights = self._cache[key]
        assert weights is not None
        return weights.to(dtype)


def rows_of(
    model: nn.Module, batch: Batch, supervision: Supervision | None, tokens: Literal["attended", "labels"]
) -> Rows:
    """The counted rows of a batch, whose tensors are on the CPU.

    Raises:
        CalibrationError: a mask of another shape, or label positions are to be counted and the batch has no labels.
    """
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    if mask is not None and mask.ndim != 2:
        raise CalibrationError(f"attention_mask must be (batch, length), not {tuple(mask.shape)}.")
    if tokens == "labels" and labels is None:
        raise CalibrationError('the batches have no `labels`, which tokens="labels" counts: add them (−100 masks one).')
    attended: dict[int, Tensor] = {}
    if mask is not None:
        attended[mask.numel()] = mask.bool().reshape(-1)
    if labels is not None and labels.ndim == 2 and is_encoder_decoder(model):
        attended[labels.numel()] = _up_to_the_last_label(labels).reshape(-1)
    inputs = gradients = attended
    if tokens == "labels" and labels is not None and labels.ndim == 2:
        labelled = labels != IGNORED  # (B, S)
        if mask is not None and not is_encoder_decoder(model):
            labelled = labelled & mask.bool()
        inputs = {**attended, labels.numel(): labelled.reshape(-1)}
        gradients = {**attended, labels.numel(): predicting_positions(model, batch).reshape(-1)}
    masks = {Side.INPUT: inputs, Side.GRADIENT: gradients, Side.ALL: attended}
    return Rows(batch_size(batch), masks, None if supervision is None else supervision.scales)


def _up_to_the_last_label(labels: Tensor) -> Tensor:
    """(B, S) bool: a decoder's positions without its padding. A masked label among others is a token like any other."""
    return (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0


def batch_size(batch: Batch) -> int:
    """Number of examples: the first dimension of the inputs."""
    for key in ("input_ids", "pixel_values", "inputs_embeds", "input_features", "input_values"):
        if key in batch:
            return len(batch[key])
    raise CalibrationError(
        f"a batch needs `input_ids` or `pixel_values`; this one has {', '.join(sorted(batch)) or 'nothing'}."
    )


def disambiguate(model: nn.Module, batch: Batch) -> Batch:
    """In an encoder-decoder, one more masked label when both sequences are equally long, so that row counts differ."""
    labels, ids = batch.get("labels"), batch.get("input_ids")
    if not is_encoder_decoder(model) or labels is None or ids is None or labels.shape != ids.shape:
        return batch
    return {**batch, "labels": nn.functional.pad(labels, (0, 1), value=IGNORED)}


def first_example(batch: Batch) -> Batch:
    """The batch cut to one example, for finding out how the model is wired."""
    size = batch_size(batch)
    return {key: value[:1] if value.ndim and len(value) == size else value for key, value in batch.items()}
