"""`tokens="labels"` against autograd: G is never masked, gradients count where a label is predicted, inputs where it stands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from hubinit.calibration import Calibration, LayerStatistics, Statistic, calibrate
from hubinit.errors import CalibrationError
from hubinit.models.layers import is_conv1d, target_layers
from tests import cases
from tests.calibration.oracle import examples_of, loss_of
from tests.calibration.test_calibrate import EVERY, assert_same, error_of

OF_INPUTS = frozenset({Statistic.INPUT_SUM, Statistic.INPUT_MOMENT, Statistic.FISHER_INPUT})
OF_TRANSFORMERS = 1e-6  # its own loss is float32 even for a float64 model
Seen = dict[str, tuple[Tensor, Tensor]]
Mask = Callable[[str, cases.Batch], Tensor]


def mean(layer: LayerStatistics, statistic: Statistic) -> Tensor:
    return layer.sums[statistic] / layer.tokens_of(statistic)


def label_positions(layer: str, row: cases.Batch) -> Tensor:
    """(S,) bool: where labels stand."""
    return row["labels"][0] != -100


def predicting_positions(layer: str, row: cases.Batch) -> Tensor:
    """(S,) bool: the position before a label, whose logits predict it. There is none before the first."""
    return torch.tensor([*(label_positions(layer, row)[1:].tolist()), False])


def decoder_labels(layer: str, row: cases.Batch) -> Tensor:
    """The decoder predicts each label at its own position; in the encoder, and in what attends to it, all tokens count."""
    decoder = layer.startswith("decoder") and not layer.endswith(("EncDecAttention.k", "EncDecAttention.v"))
    return torch.ones(
        int(label_positions(layer, row).sum()) if decoder else row["input_ids"].shape[1], dtype=torch.bool
    )


def run(name: str, model: nn.Module, row: cases.Batch) -> tuple[Tensor, int, Seen]:
    """One example: its summed loss, number of labels, and each layer's input and output with their graph."""
    seen: Seen = {}
    handles = [
        module.register_forward_hook(lambda mod, args, out, key=key: seen.__setitem__(key, (args[0], out)))
        for key, module in target_layers(model).items()
    ]
    loss, length = loss_of(name, model, row)
    for handle in handles:
        handle.remove()
    return loss, length, seen


def gradient_by_autograd(name: str, model: nn.Module, data: list[cases.Batch]) -> dict[str, Tensor]:
    """Layer → Σ over examples of the mean loss's gradient with respect to the weight (m, n): nothing else is G."""
    layers = target_layers(model)
    total: dict[str, Tensor] = {}
    for row in examples_of(data):
        loss, length, _ = run(name, model, row)
        gradients = torch.autograd.grad(loss, [module.weight for module in layers.values()])
        for (key, module), gradient in zip(layers.items(), gradients, strict=True):
            total[key] = total.get(key, 0) + (gradient.T if is_conv1d(module) else gradient) / length
    return total


def sums_by_autograd(
    name: str, model: nn.Module, data: list[cases.Batch], inputs: Mask, gradients: Mask
) -> dict[str, dict[str, Any]]:
    """Layer → sums over the positions that count, one token after the other."""
    found: dict[str, dict[str, Any]] = {}
    for row in examples_of(data):
        loss, length, seen = run(name, model, row)
        outputs = torch.autograd.grad(loss, [out for _, out in seen.values()])
        for (key, (x, _)), g in zip(seen.items(), outputs, strict=True):
            xs = x.detach().reshape(-1, x.shape[-1])[inputs(key, row)]  # (T, n)
            gs = g.reshape(-1, g.shape[-1])[gradients(key, row)]  # (T', m)
            here = found.setdefault(key, dict.fromkeys(("tokens", "gradient_tokens", *EVERY), 0))
            here["tokens"] += len(xs)
            here["gradient_tokens"] += len(gs)
            for token in xs:
                here[Statistic.INPUT_SUM] += token
                here[Statistic.INPUT_MOMENT] += token.outer(token)
            for token in gs:
                here[Statistic.OUTPUT_MOMENT] += token.outer(token)
                here[Statistic.OUTPUT_DIAGONAL] += token**2
                here[Statistic.MEAN_OUTPUT_MOMENT] += token.outer(token) / length**2
                here[Statistic.MEAN_OUTPUT_DIAGONAL] += (token / length) ** 2
    return found


def check(found: Calibration, gradient: dict[str, Tensor], sums: dict[str, dict[str, Any]]) -> None:
    assert found.layers.keys() == gradient.keys() == sums.keys()
    for key, layer in found.layers.items():
        assert error_of(layer.sums[Statistic.GRADIENT], gradient[key]) < 1e-9, f"G of {key}"
        expected = sums[key]
        assert (layer.tokens_of(Statistic.INPUT_MOMENT), layer.tokens_of(Statistic.OUTPUT_MOMENT)) == (
            expected["tokens"],
            expected["gradient_tokens"],
        ), key
        assert layer.tokens_of(Statistic.INPUT_SUM) == layer.tokens_of(Statistic.FISHER_INPUT)
        assert layer.tokens_of(Statistic.MEAN_OUTPUT_DIAGONAL) == layer.tokens_of(Statistic.FISHER_OUTPUT)
        for kind in (kind for kind in EVERY if isinstance(expected[kind], Tensor)):
            assert error_of(layer.sums[kind], expected[kind]) < 1e-9, f"{kind} of {key}"


def sparse(data: list[cases.Batch]) -> list[cases.Batch]:
    """The same batches with holes in the labels, and in the first example a label at its first token, which nothing predicts."""
    batches = [{**batch, "labels": batch["labels"].clone()} for batch in data]
    for batch in batches:
        batch["labels"][:, 1::3] = -100
    first = int(batches[0]["attention_mask"][0].nonzero()[0])
    batches[0]["labels"][0, first] = batches[0]["input_ids"][0, first]
    return batches


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_causal_models(name: str, padding: str) -> None:
    model = cases.build(name, dtype=torch.float64)
    data = sparse(cases.batches(name, examples=3, padding=padding))
    found = calibrate(model, data, statistics=EVERY, tokens="labels")
    sums = sums_by_autograd(name, model, data, label_positions, predicting_positions)
    assert all(entry["tokens"] == entry["gradient_tokens"] + 1 for entry in sums.values())
    check(found, gradient_by_autograd(name, model, data), sums)


@pytest.mark.parametrize("tokens", ["attended", "labels"])
def test_masked_labels_inside_a_decoder(tokens: str) -> None:
    model = cases.build("t5", dtype=torch.float64)
    data = cases.batches("t5", examples=3)
    for batch in data:
        batch["labels"][:, 1] = -100  # later labels attend to this position: its gradient belongs to G
    found = calibrate(model, data, statistics=EVERY, tokens=tokens)
    gradient = gradient_by_autograd_of_holes(model, data)
    for key, layer in found.layers.items():
        assert error_of(layer.sums[Statistic.GRADIENT], gradient[key]) < OF_TRANSFORMERS, f"G of {key}"
    labelled = sum(int((batch["labels"] != -100).sum()) for batch in data)
    decoder = found.layers["decoder.block.0.layer.0.SelfAttention.q"]
    assert decoder.tokens == labelled + (6 // 2 if tokens == "attended" else 0)
    encoder = found.layers["encoder.block.0.layer.0.SelfAttention.q"]
    assert encoder.tokens == sum(int(batch["attention_mask"].sum()) for batch in data)


def gradient_by_autograd_of_holes(model: nn.Module, data: list[cases.Batch]) -> dict[str, Tensor]:
    """As `gradient_by_autograd`, with transformers' own loss, which takes masked labels among others."""
    layers = target_layers(model)
    total: dict[str, Tensor] = {}
    for row in examples_of(data):
        loss = model(**row).loss  # the mean over the example's labels
        gradients = torch.autograd.grad(loss, [module.weight for module in layers.values()])
        for key, gradient in zip(layers, gradients, strict=True):
            total[key] = total.get(key, 0) + gradient
    return total


def test_an_encoder_decoder_counts_what_it_did() -> None:
    model, data = cases.build("t5", dtype=torch.float64), cases.batches("t5", examples=3)
    found = calibrate(model, data, statistics=EVERY, tokens="labels")
    sums = sums_by_autograd("t5", model, data, decoder_labels, decoder_labels)
    check(found, gradient_by_autograd("t5", model, data), sums)
    attended = calibrate(model, data, statistics=EVERY)
    for key, layer in attended.layers.items():
        for kind in EVERY:
            assert error_of(found.layers[key].sums[kind], layer.sums[kind]) < 1e-9


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_labels_of_whole_examples_mask_nothing(name: str) -> None:
    model, data = cases.build(name, dtype=torch.float64), cases.batches(name, dtype=torch.float64)
    assert_same(calibrate(model, data, statistics=EVERY, tokens="labels"), calibrate(model, data, statistics=EVERY))


def test_a_token_classifier_predicts_labels_where_they_stand() -> None:
    torch.manual_seed(0)
    config = tf.BertConfig(**cases._COMMON, num_labels=cases.LABELS)
    model = tf.BertForTokenClassification(config).double().eval()
    data = sparse(cases.batches("llama", examples=3))
    data = [{**b, "labels": torch.where(b["labels"] == -100, -100, b["labels"] % cases.LABELS)} for b in data]
    found = calibrate(model, data, statistics=EVERY, tokens="labels")
    gradient = gradient_by_autograd_of_holes(model, data)
    diagonal: dict[str, Tensor] = {}
    for row in examples_of(data):
        seen: Seen = {}
        layers = target_layers(model)
        handles = [
            module.register_forward_hook(
                lambda mod, args, out, key=key, seen=seen: seen.__setitem__(key, (args[0], out))
            )
            for key, module in layers.items()
        ]
        loss = model(**row).loss
        for handle in handles:
            handle.remove()
        for key, g in zip(seen, torch.autograd.grad(loss, [out for _, out in seen.values()]), strict=True):
            diagonal[key] = diagonal.get(key, 0) + (g[0, label_positions(key, row)] ** 2).sum(0)
    for key, layer in found.layers.items():
        assert error_of(layer.sums[Statistic.GRADIENT], gradient[key]) < OF_TRANSFORMERS
        assert error_of(layer.sums[Statistic.MEAN_OUTPUT_DIAGONAL], diagonal[key]) < OF_TRANSFORMERS
        assert layer.tokens_of(Statistic.INPUT_SUM) == layer.tokens_of(Statistic.OUTPUT_MOMENT)


def test_the_fisher_diagonal_and_the_gradient_are_those_of_lora_da_s_label_mode() -> None:
    """As the released code does it: examples one by one, the model's own mean loss, positions before a label, per token."""
    model = cases.build("llama", dtype=torch.float64)
    data = sparse(cases.batches("llama", examples=4))
    found = calibrate(model, data, statistics=EVERY, tokens="labels")
    layers = target_layers(model)
    squares, count, rows = dict.fromkeys(layers, 0), 0, examples_of(data)
    model.zero_grad()
    for row in rows:
        seen: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(
                lambda mod, args, out, key=key, seen=seen: (out.retain_grad(), seen.__setitem__(key, out))[0]
            )
            for key, module in layers.items()
        ]
        model(**row).loss.backward()
        for handle in handles:
            handle.remove()
        before = torch.zeros_like(row["labels"], dtype=torch.bool)
        before[:, :-1] = row["labels"][:, 1:] != -100
        count += int(before.sum())
        for key, output in seen.items():
            squares[key] = squares[key] + output.grad[before].square().sum(0)
    for key, module in layers.items():
        layer = found.layers[key]
        assert (
            error_of(
                mean(layer, Statistic.MEAN_OUTPUT_DIAGONAL),
                squares[key] / count,
            )
            < OF_TRANSFORMERS
        )
        assert (
            error_of(layer.sums[Statistic.GRADIENT] / layer.examples, module.weight.grad / len(rows)) < OF_TRANSFORMERS
        )


def test_adding_and_storing_keep_both_counts(tmp_path) -> None:
    model = cases.build("llama", dtype=torch.float64)
    data = sparse(cases.batches("llama"))
    whole = calibrate(model, data, statistics=EVERY, tokens="labels")
    parts = [calibrate(model, part, statistics=EVERY, tokens="labels") for part in (data[:1], data[1:])]
    total = parts[0] + parts[1]
    total.save(tmp_path)
    for other in (total, Calibration.load(tmp_path)):
        for key, layer in whole.layers.items():
            for kind in EVERY:
                assert layer.tokens_of(kind) == other.layers[key].tokens_of(kind)
                assert (
                    error_of(
                        mean(other.layers[key], kind),
                        mean(layer, kind),
                    )
                    < 1e-9
                )
    forward = calibrate(model, data, statistics=OF_INPUTS, tokens="labels")
    merged = forward.merge(calibrate(model, data, statistics=EVERY - OF_INPUTS, tokens="labels"))
    assert_same(merged, whole)


def test_labels_are_asked_for() -> None:
    data = [{key: value for key, value in batch.items() if key != "labels"} for batch in cases.batches("llama")]
    with pytest.raises(CalibrationError, match="no `labels`"):
        calibrate(cases.build("llama"), data, statistics=OF_INPUTS, tokens="labels")


def test_float16_keeps_the_mean_gradients_that_it_could_not_hold() -> None:
    """g fits in float16 here, and g / L_i, of some fifty labels, does not: it is below 6e-5, where float16 loses its digits."""
    data = cases.batches("llama", examples=4, length=60)
    for batch in data:
        batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    model, exact_model = (cases.build("llama", dtype=torch.float16) for _ in range(2))
    for each in (model, exact_model):
        each.lm_head.weight.data.mul_(2**-12)
    kinds = frozenset({Statistic.GRADIENT, Statistic.MEAN_OUTPUT_MOMENT})
    found = calibrate(model, data, statistics=kinds)
    exact = calibrate(exact_model.double(), data, statistics=kinds)
    for key, layer in found.layers.items():
        for kind in kinds:
            assert layer.sums[kind].dtype == torch.float32
            ours, true = layer.sums[kind].double(), exact.layers[key].sums[kind]
            assert (ours - true).norm() < 0.01 * true.norm(), f"{kind} of {key}"
