"""What is seen of a training: against dense gradients of autograd, and with no change of what is seen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hubinit
from hubinit.data.encode import IGNORED, Example, batches
from hubinit.specs import Recipe
from hubinit.training.drift import Factors, factor_layers, factors_of, layer_drift, mean_drift, measure_drift
from hubinit.training.first_update import WatchFirstUpdate
from hubinit.training.losses import completion_loss
from hubinit.training.trainer import TrainOutcome, train
from tests.texts import language_model, tokenizer

EXAMPLES = [Example(f"Question: What is {i}?\nAnswer:", " the small bird" * (1 + i % 3)) for i in range(8)]
RECIPE = Recipe(steps=2, batch_size=8, micro_batch_size=4, max_length=64, schedule="constant", warmup_ratio=0.0)


def start(method: str, **options: Any) -> Any:
    return hubinit.initialize(language_model(), method, rank=2, alpha=4, seed=0, **options)


def run(model: Any, folder: Path, recipe: Recipe = RECIPE, **options: Any) -> TrainOutcome:
    return train(
        model, tokenizer(), EXAMPLES, recipe, learning_rate=1e-2, seed=0, output_dir=folder / "checkpoints", **options
    )


def dense_gradients(model: Any, names: list[str]) -> dict[str, Tensor]:
    """The oracle: the gradient of the same loss with respect to the base weights themselves, by autograd, in one batch."""
    (batch,) = batches(EXAMPLES, tokenizer(), batch_size=8, max_length=64)
    labels = batch.pop("labels")
    layers = factor_layers(model)
    weights = [layers[name].get_base_layer().weight.requires_grad_(True) for name in names]
    loss = completion_loss(model(**batch), labels)
    found = torch.autograd.grad(loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize(("method", "checkpointing"), [("lora", False), ("pissa", True), ("milora", False)])
def test_the_first_update_beside_the_dense_gradient(method: str, checkpointing: bool, tmp_path: Path) -> None:
    model = start(method)
    layers = factor_layers(model)
    G = dense_gradients(model, list(layers))
    before = factors_of(layers)
    watch = WatchFirstUpdate(model)
    recipe = RECIPE.model_copy(update={"steps": 1, "gradient_checkpointing": checkpointing})
    run(model, tmp_path, recipe, callbacks=[watch])
    after = factors_of(layers)
    moved = {
        name: old.s * (after[name].B.double() @ after[name].A.double() - old.B.double() @ old.A.double())
        for name, old in before.items()
    }
    flat = torch.cat([moved[name].flatten() for name in G]), -torch.cat([G[name].double().flatten() for name in G])
    assert watch.measured is not None and watch.measured.step == 1
    assert watch.measured.cosine == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), rel=1e-4)
    assert watch.measured.gradient_norm == pytest.approx(float(flat[1].norm()), rel=1e-4)
    assert watch.measured.update_norm == pytest.approx(float(flat[0].norm()), rel=1e-4)
    assert watch.measured.cosine > 0.05  # downhill
    name = next(iter(G))
    alone = torch.cosine_similarity(moved[name].flatten(), -G[name].double().flatten(), dim=0)
    assert watch.cosines[name] == pytest.approx(float(alone), rel=1e-4)


def test_a_step_at_rate_zero_is_not_the_first_update(tmp_path: Path) -> None:
    model = start("lora")
    watch = WatchFirstUpdate(model)
    run(model, tmp_path, RECIPE.model_copy(update={"steps": 3, "warmup_ratio": 0.5}), callbacks=[watch])
    assert watch.measured is not None and watch.measured.step == 2


def test_looking_changes_nothing(tmp_path: Path) -> None:
    curves, weights = [], []
    for looking in (False, True):
        model = start("pissa", lora_dropout=0.1)
        watch = [WatchFirstUpdate(model)] if looking else []
        curves.append(run(model, tmp_path, callbacks=watch).curve)
        weights.append([parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad])
    assert curves[0] == curves[1]
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def test_other_adapters_say_why_they_have_no_first_update(tmp_path: Path) -> None:
    model = start("dora")
    watch = WatchFirstUpdate(model)
    run(model, tmp_path, callbacks=[watch])
    assert watch.measured is None and watch.reason == "this adapter's update is not a product s·B A"


def test_drift_of_a_known_turn() -> None:
    """A's row space turns by 90° in one of two directions; B stays, so ΔW lies in its column space."""
    eye = torch.eye(4)
    A0, A1, B = eye[:2], eye[[0, 2]], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = layer_drift(Factors(A0, B, 2.0), Factors(A1, B, 2.0))
    assert found.input_angle == pytest.approx(45.0)
    assert found.output_angle == pytest.approx(0.0, abs=1e-6)
    # ΔW = 2·e₂(e₃ − e₂)ᵀ: half of its square is along e₂, inside the old row space.
    assert found.update_norm == pytest.approx(2 * 2**0.5)
    assert (found.input_inside, found.output_inside) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_frozen_factor_does_not_drift_and_lora_has_no_output_space_at_its_start(tmp_path: Path) -> None:
    mica, lora = start("mica"), start("lora")
    means = []
    for model in (mica, lora):
        layers = factor_layers(model)
        before = factors_of(layers)
        run(model, tmp_path)
        means.append(mean_drift(measure_drift(before, factors_of(layers))))
    frozen, free = means
    assert frozen is not None and frozen.update_norm > 0 and free is not None
    assert 0.0 in (pytest.approx(frozen.input_angle, abs=1e-6), pytest.approx(frozen.output_angle, abs=1e-6))
    assert free.output_angle is None and free.output_inside is None
    assert free.input_angle is not None and 0 < free.input_angle < 90


def test_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    outcome = run(start("lora"), tmp_path)  # two steps of all eight examples
    inputs = labels = 0
    for batch in batches(EXAMPLES, tokenizer(), batch_size=1, max_length=64):
        inputs += batch["input_ids"].numel()
        labels += int((batch["labels"] != IGNORED).sum())
    assert (outcome.throughput.input_tokens, outcome.throughput.label_tokens) == (2 * inputs, 2 * labels)
    assert outcome.throughput.seconds > 0
