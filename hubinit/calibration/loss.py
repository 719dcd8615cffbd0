"""The gradient that calibration starts from: each example's summed negative log-likelihood, never the batch mean.

Only `d NLL / d logits = softmax − onehot` is needed, so it is formed in chunks of supervised positions and handed to the
backward pass. No float32 copy of all logits is made, and the sampled Fisher uses the same code with drawn labels.
"""

import hashlib
import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hubinit.data.encode import IGNORED
from hubinit.errors import CalibrationError
from hubinit.models.layers import base_of
from hubinit.numerics.products import sum_dtype

CHUNK_BYTES = 1 << 28  # float32 logits handled at a time
CHUNK_BYTES_CPU = 1 << 22  # small enough to stay in the cache
UNSHIFTED = re.compile(r"MaskedLM|TokenClassification")  # models whose logits at t belong to the label at t, not t + 1

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Supervision:
    """The supervised positions of one batch, N in all, in the order of their example.

    Attributes:
        row: (N,) index into the logits flattened to (rows, classes).
        label: (N,) class or token.
        example: (N,) which example of the batch.
        lengths: (B,) supervised positions per example, L_i.
        keep: sequence positions whose logits are needed, or None for all (they are rows of the logits then).
    """

    row: Tensor
    label: Tensor
    example: Tensor
    lengths: Tensor
    keep: Tensor | None = None

    @property
    def scales(self) -> Tensor:
        """(B,) float64: 1 / L_i, which turns gradients of the summed into gradients of the mean loss; 0 without labels."""
        return torch.where(self.lengths > 0, 1.0 / self.lengths.clamp_min(1).double(), 0.0)


def model_inputs(
    model: nn.Module, batch: Batch, supervision: Supervision | None, *, all_logits: bool = False
) -> dict[str, Any]:
    """The forward call's arguments: no labels (the loss is ours), no cache, only the logits that are needed.

    Without supervision none are; transformers computes at least those of one position. `all_logits` asks for all of them,
    because the head is a target layer itself. Left-padded batches get explicit position ids, since models with learned
    positions would count the padding.
    """
    accepted = inspect.signature(base_of(model).forward).parameters
    inputs: dict[str, Any] = {key: value for key, value in batch.items() if key != "labels"}
    mask = batch.get("attention_mask")
    if mask is not None and "position_ids" in accepted and "position_ids" not in batch and not bool(mask[:, 0].all()):
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0)  # (B, S)
    if is_encoder_decoder(model) and "decoder_input_ids" not in batch:
        shift: Any = model.prepare_decoder_input_ids_from_labels
        inputs["decoder_input_ids"] = shift(labels=batch["labels"])
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    if supervision is not None and supervision.keep is not None:
        inputs["logits_to_keep"] = supervision.keep
    elif supervision is None and not all_logits and "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = 1
    return inputs


def is_encoder_decoder(model: nn.Module) -> bool:
    """True for sequence-to-sequence models (T5)."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def supervise(model: nn.Module, batch: Batch, *, all_logits: bool = False) -> Supervision:
    """Finds the supervised positions of a batch.

    Labels (B,) are classes of examples; labels (B, S) are tokens, −100 masked, predicted from the position before (except by
    masked language models, token classifiers and decoders of encoder-decoders, whose labels stand where they are predicted).
    A causal label counts when it and the position before it are both attended. `all_logits`: as in `model_inputs`.

    Raises:
        CalibrationError: no labels, or labels of another kind (regression, several labels per example).
    """
    labels = batch.get("labels")
    if labels is None:
        raise CalibrationError(
            "the batches have no `labels`, which the gradients need: add them (−100 masks a position)."
        )
    if labels.is_floating_point() or labels.ndim not in (1, 2):
        raise CalibrationError(
            f"labels must be integer classes (B,) or tokens (B, S), not {labels.dtype} {tuple(labels.shape)}: "
            "regression and multi-label losses are not supported."
        )
    if labels.ndim == 1:
        example = (labels != IGNORED).nonzero().squeeze(1)
        return Supervision(example, labels[example], example, (labels != IGNORED).long())
    valid = predicting_positions(model, batch)  # (B, S)
    if _shifts(model):
        labels = labels.roll(-1, dims=1)
    columns = valid.any(0).nonzero().squeeze(1)  # positions that any example needs
    keep = None
    if (
        not all_logits
        and 0 < len(columns) < 0.9 * valid.shape[1]
        and "logits_to_keep" in inspect.signature(base_of(model).forward).parameters
    ):
        keep = columns
        valid, labels = valid[:, columns], labels[:, columns]
    example, position = valid.nonzero(as_tuple=True)
    row = example * valid.shape[1] + position
    return Supervision(row, labels[example, position], example, valid.sum(1), keep)


def predicting_positions(model: nn.Module, batch: Batch) -> Tensor:
    """(B, S) bool: the positions whose logits predict a label, for token labels (B, S)."""
    valid = batch["labels"] != IGNORED  # (B, S)
    mask = batch.get("attention_mask")
    if mask is not None and not is_encoder_decoder(model):
        valid = valid & mask.bool()
    if not _shifts(model):
        return valid
    shifted = torch.zeros_like(valid)
    shifted[:, :-1] = valid[:, 1:] if mask is None else valid[:, 1:] & mask[:, :-1].bool()  # t predicts label t + 1
    return shifted


def _shifts(model: nn.Module) -> bool:
    """Whether the logits at t belong to the label at t + 1: in causal language models."""
    return not is_encoder_decoder(model) and not UNSHIFTED.search(type(base_of(model)).__name__)


def loss_gradient(logits: Tensor, supervision: Supervision, uniform: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The summed negative log-likelihood and its gradient.

    Args:
        logits: (rows, classes), any dtype.
        supervision: which rows count, with their labels.
        uniform: (N,) numbers in [0, 1): labels are drawn with them from the model's own distribution (sampled Fisher).

    Returns:
        gradient (rows, classes) in the logits' dtype, and the summed loss () in float32 (float64).
    """
    dtype, device = sum_dtype(logits.dtype), logits.device
    gradient = torch.empty_like(logits)
    total = torch.zeros((), dtype=dtype, device=device)
    label = torch.zeros(len(logits), dtype=torch.long)
    masked = torch.ones(len(logits), dtype=torch.bool)
    point = torch.zeros(len(logits), dtype=dtype)
    label[supervision.row], masked[supervision.row] = supervision.label.long(), False
    if uniform is not None:
        point[supervision.row] = uniform.to(dtype)
    label, masked, point = label.to(device)[:, None], masked.to(device)[:, None], point.to(device)[:, None]  # (rows, 1)
    # Chunks of consecutive rows are views; rows without a label get a zero gradient.
    chunk = max(1, (CHUNK_BYTES_CPU if device.type == "cpu" else CHUNK_BYTES) // (4 * logits.shape[1]))
    for start in range(0, len(logits), chunk):
        rows = slice(start, start + chunk)
        log_p = torch.log_softmax(logits[rows], dim=-1, dtype=dtype)  # (chunk, classes)
        index = label[rows]
        if uniform is None:
            total -= log_p.gather(1, index).masked_fill(masked[rows], 0).sum()
            p = log_p.exp_()
        else:
            p = log_p.exp_()
            cdf = p.cumsum(-1)  # (chunk, classes)
            index = torch.searchsorted(cdf, point[rows] * cdf[:, -1:], right=True).clamp_max(p.shape[1] - 1)
            total -= p.gather(1, index).log().masked_fill(masked[rows], 0).sum()
        p.scatter_add_(1, index, -torch.ones_like(index, dtype=dtype))
        gradient[rows] = p.masked_fill_(masked[rows], 0)
    return gradient, total


def draw_uniforms(batch: Batch, supervision: Supervision, seed: int) -> Tensor:
    """One number in [0, 1) per supervised position, from the seed and the example's content.

    So the labels drawn do not depend on the batch size, the padding, the order of the examples or the number of processes.

    Returns:
        (N,) float64 on the CPU.
    """
    key = "input_ids" if "input_ids" in batch else next(name for name in sorted(batch) if name != "labels")
    values, mask = batch[key].cpu(), batch.get("attention_mask")
    mask = None if mask is None or mask.shape != values.shape else mask.cpu().bool()
    drawn = []
    for index, length in enumerate(supervision.lengths.tolist()):
        row = values[index] if mask is None else values[index][mask[index]]
        content = row.contiguous().to(torch.float64).numpy().tobytes()
        digest = hashlib.sha256(content + str(seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        drawn.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.cat(drawn)
