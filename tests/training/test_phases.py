"""What methods do while they train: a term in the loss, and a second phase; both go on after an interruption."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hubinit
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.directions import CHILD, Directed
from hubinit.adapters.gates import check_reload
from hubinit.methods import get
from hubinit.methods.lora_dash import LoraDashOptions, choose_directions
from hubinit.training import trainer as training
from hubinit.training.optimisers import OPTIMISERS
from hubinit.training.phases import Allocation, Warmup
from hubinit.training.trainer import TrainOutcome, train
from tests.adapters.small import logits
from tests.texts import language_model, tokenizer
from tests.training.test_trainer import EXAMPLES, RECIPE, equal, token_losses, trained

OPTIONS = LoraDashOptions(directions=3)


def dash(
    folder: Path, *, warmup: int = 2, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Any, TrainOutcome]:
    model = hubinit.initialize(language_model().to(dtype), "lora-dash", rank=2)
    phase = Warmup(model, warmup, OPTIONS.directions, partial(choose_directions, options=OPTIONS))
    settings: dict[str, Any] = {"learning_rate": 1e-2, "seed": 3, "output_dir": folder, "callbacks": [phase], **options}
    return model, train(model, tokenizer(), EXAMPLES, RECIPE, **settings)


def test_the_first_phase_is_lora_and_the_second_trains_the_directions(tmp_path: Path) -> None:
    lora = hubinit.initialize(language_model(), "lora-dash", rank=2)
    recipe = RECIPE.model_copy(update={"schedule": "constant"})
    settings: dict[str, Any] = {"learning_rate": 1e-2, "seed": 3, "output_dir": tmp_path}
    expected = train(lora, tokenizer(), EXAMPLES, recipe, **settings).curve
    model = hubinit.initialize(language_model(), "lora-dash", rank=2)
    seen: dict[int, Tensor] = {}
    name, layer = next(iter(adapted_layers(model).items()))

    def look(step: int, steps: int, loss: float) -> None:
        seen[step] = getattr(layer, CHILD).coefficients.detach().clone()

    phase = Warmup(model, 2, OPTIONS.directions, partial(choose_directions, options=OPTIONS))
    curve = train(model, tokenizer(), EXAMPLES, recipe, on_log=look, callbacks=[phase], **settings).curve
    assert curve[:2] == expected[:2]
    assert curve[2].loss == expected[2].loss, "the coefficients start at zero"
    assert curve[3].loss != expected[3].loss
    assert not seen[1].any() and not seen[2].any()
    # Adam's first step has the size of the rate: its state began with the second phase
    torch.testing.assert_close(seen[3].abs(), torch.full((3,), 1e-2), rtol=1e-3, atol=0)
    assert isinstance(layer.lora_variant["default"], Directed), name


def test_the_directions_are_those_of_the_factors_after_the_warm_up(tmp_path: Path) -> None:
    short = RECIPE.model_copy(update={"schedule": "constant"})
    lora = hubinit.initialize(language_model(), "lora-dash", rank=2)
    settings: dict[str, Any] = {"learning_rate": 1e-2, "seed": 3, "output_dir": tmp_path}
    train(lora, tokenizer(), EXAMPLES, short.model_copy(update={"steps": 2}), **settings)
    model = hubinit.initialize(language_model(), "lora-dash", rank=2)
    phase = Warmup(model, 2, OPTIONS.directions, partial(choose_directions, options=OPTIONS))
    train(model, tokenizer(), EXAMPLES, short, callbacks=[phase], **settings)
    warm = adapted_layers(lora)
    for name, layer in adapted_layers(model).items():
        A, B = warm[name].lora_A["default"].weight, warm[name].lora_B["default"].weight
        U, Vt = choose_directions(layer.get_base_layer().weight, A, B, 2.0, OPTIONS)
        assert torch.equal(getattr(layer, CHILD).U, U)
        assert torch.equal(getattr(layer, CHILD).Vt, Vt)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_export_is_a_plain_lora_with_the_directions_in_its_rank(tmp_path: Path, dtype: torch.dtype) -> None:
    model, _ = dash(tmp_path / "checkpoints", dtype=dtype)
    batch = {"input_ids": torch.arange(12).reshape(2, 6)}
    assert hubinit.export(model, tmp_path / "adapter").rank == 2 + 3
    check_reload(model, tmp_path / "adapter", batch)


def test_merging_takes_the_directions_along(tmp_path: Path) -> None:
    model, _ = dash(tmp_path)
    batch = {"input_ids": torch.arange(12).reshape(2, 6)}
    expected = logits(model, batch)
    with model.disable_adapter():
        assert not torch.equal(logits(model, batch), expected)
    torch.testing.assert_close(logits(model.merge_and_unload(safe_merge=True), batch), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_an_interrupted_run_goes_on_in_its_phase(killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, expected = dash(tmp_path / "straight")

    def kill(step: int, steps: int, loss: float) -> None:
        if step == killed + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        dash(tmp_path / "broken", on_log=kill)
    seen: list[int] = []
    again, outcome = dash(tmp_path / "broken", on_log=lambda step, steps, loss: seen.append(step))
    assert seen == list(range(killed + 1, 5))
    assert equal(trained(again), trained(straight))
    for one, other in zip(adapted_layers(again).values(), adapted_layers(straight).values(), strict=True):
        assert torch.equal(getattr(one, CHILD).U, getattr(other, CHILD).U)
    assert outcome.curve == expected.curve


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_a_term_of_the_loss_counts_once_per_step(tmp_path: Path, micro: int) -> None:
    model = hubinit.initialize(language_model(), "lora", rank=2)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def penalty() -> Tensor:
        return 7 * torch.stack([(p - 1).square().sum() for p in parameters]).sum()

    loss = torch.cat([token_losses(model, example) for example in EXAMPLES]).mean() + penalty()
    norm = torch.stack([g.square().sum() for g in torch.autograd.grad(loss, parameters)]).sum().sqrt()
    recipe = RECIPE.model_copy(update={"steps": 1, "batch_size": 8, "micro_batch_size": micro})
    (point,) = train(
        model, tokenizer(), EXAMPLES, recipe, learning_rate=0.0, seed=0, output_dir=tmp_path, penalty=penalty
    ).curve
    assert point.loss == pytest.approx(float(loss), rel=1e-5)
    assert point.grad_norm == pytest.approx(float(norm), rel=1e-4)


def adalora() -> Any:
    options = {"total_step": 4, "target_r": 1, "tinit": 1, "tfinal": 1, "init_r": 4, "orth_reg_weight": 0.5}
    return hubinit.initialize(language_model(), "peft:adalora", rank=4, **options)


def test_adalora_gets_its_budget_and_its_regulariser_and_starts_over_when_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = get("peft:adalora").penalty
    assert penalty is not None

    def run(folder: Path, model: Any, **options: Any) -> None:
        settings: dict[str, Any] = {"learning_rate": 1e-2, "seed": 3, "callbacks": [Allocation(model)], **options}
        term = partial(penalty, model, None)
        train(model, tokenizer(), EXAMPLES, RECIPE, output_dir=folder, penalty=term, **settings)

    model = adalora()
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "labels": torch.arange(12).reshape(2, 6)}
    whole = model(**batch).loss  # PEFT adds the regulariser here, and only here
    model.peft_config["default"].orth_reg_weight = 0.0
    plain = model(**batch).loss
    model.peft_config["default"].orth_reg_weight = 0.5
    assert penalty(model, None).item() == pytest.approx((whole - plain).item(), rel=1e-4)
    run(tmp_path / "straight", model)
    kept = sum(int((value != 0).sum()) for name, value in model.named_parameters() if "lora_E" in name)
    assert kept == len(adapted_layers(model)), "one rank per layer on average"

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", adalora(), on_log=kill)
    again = adalora()
    run(tmp_path / "broken", again)
    assert equal(trained(again), trained(model))


@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
def test_every_optimiser_trains_the_directions_once_they_are_chosen(optimiser: str, tmp_path: Path) -> None:
    model = hubinit.initialize(language_model(), "lora-dash", rank=2)
    phase = Warmup(model, 2, OPTIONS.directions, partial(choose_directions, options=OPTIONS))
    recipe = RECIPE.model_copy(update={"optimiser": optimiser})
    train(model, tokenizer(), EXAMPLES, recipe, learning_rate=1e-3, seed=0, output_dir=tmp_path, callbacks=[phase])
    assert all(getattr(layer, CHILD).coefficients.all() for layer in adapted_layers(model).values())
