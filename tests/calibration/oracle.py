"""Every statistic by brute force: one example at a time, all tensors kept, sums written as the definitions say."""

import torch
from torch import Tensor, nn

from hubinit.calibration import Statistic
from hubinit.models.layers import bias_of, target_layers, weight_of
from tests.cases import CLASSIFIERS, SEQ2SEQ, Batch


def examples_of(batches: list[Batch]) -> list[Batch]:
    """Every example alone, without padding."""
    found = []
    for batch in batches:
        for index in range(len(batch["labels"])):
            row = {key: value[index : index + 1] for key, value in batch.items()}
            if "attention_mask" in row:
                mask = row["attention_mask"][0].bool()
                for key in ("input_ids", "attention_mask", "labels"):
                    if row[key].ndim == 2 and row[key].shape[1] == len(mask):
                        row[key] = row[key][:, mask]
            found.append(row)
    return found


def loss_of(name: str, model: nn.Module, row: Batch) -> tuple[Tensor, int]:
    """The summed negative log-likelihood of one example, and the number of its label tokens."""
    labels = row["labels"]
    inputs = {key: value for key, value in row.items() if key != "labels"}
    if name in SEQ2SEQ:
        labels = labels[labels != -100][None]
        inputs["decoder_input_ids"] = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
    logits = model(**inputs).logits.double()
    if name not in CLASSIFIERS and name not in SEQ2SEQ:
        logits, labels = logits[:, :-1], labels[:, 1:]
    flat, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = nn.functional.cross_entropy(flat, labels, ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


def statistics(name: str, model: nn.Module, batches: list[Batch]) -> dict[str, dict[Statistic, Tensor]]:
    """Layer → all statistics in float64, with `tokens` and `examples` per layer under the key of their names."""
    model = model.double().eval()
    layers = target_layers(model)
    kept: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {key: [] for key in layers}
    rows = examples_of(batches)
    for row in rows:
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            module.register_forward_hook(
                lambda mod, args, out, key=key, seen=seen: seen.__setitem__(key, (args[0], out))
            )
            for key, module in layers.items()
        ]
        row = {key: value.double() if value.is_floating_point() else value for key, value in row.items()}
        loss, length = loss_of(name, model, row)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, [seen[key][1] for key in layers])
        for key, g in zip(layers, gradients, strict=True):
            x = seen[key][0]
            g_rows = g.reshape(-1, g.shape[-1])
            kept[key].append((x.detach().reshape(-1, x.shape[-1]), g_rows, g_rows / length))
    return {key: _sums(layers[key], kept[key]) for key in layers}


def _sums(module: nn.Module, kept: list[tuple[Tensor, Tensor, Tensor]]) -> dict[Statistic, Tensor]:
    X, G, M = (torch.cat([entry[index] for entry in kept]) for index in range(3))  # (T, n), (T, m), (T, m)
    W = weight_of(module)  # (m, n)
    V = nn.functional.normalize(W.T @ W, dim=0)  # (n, n)
    U = nn.functional.normalize(W @ V, dim=0)  # (m, n)
    assert bias_of(module) is None or bias_of(module).abs().sum() > 0
    return {
        "tokens": len(X),
        "examples": len(kept),
        Statistic.INPUT_SUM: X.sum(0),
        Statistic.INPUT_MOMENT: X.T @ X,
        Statistic.OUTPUT_MOMENT: G.T @ G,
        Statistic.OUTPUT_DIAGONAL: (G**2).sum(0),
        Statistic.MEAN_OUTPUT_MOMENT: M.T @ M,
        Statistic.MEAN_OUTPUT_DIAGONAL: (M**2).sum(0),
        Statistic.GRADIENT: M.T @ X,
        Statistic.FISHER_INPUT: ((X @ V) ** 2).sum(0),
        Statistic.FISHER_OUTPUT: ((G @ U) ** 2).sum(0),
    }
