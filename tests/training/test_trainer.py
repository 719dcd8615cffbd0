import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hubinit.data.encode import IGNORED, Example, ImageExample, encode
from hubinit.errors import DivergedError, HubinitError
from hubinit.records import CurvePoint
from hubinit.specs import Recipe
from hubinit.training import trainer as training
from hubinit.training.optimisers import OPTIMISERS
from hubinit.training.trainer import TrainOutcome, thin, train
from tests.texts import language_model, tokenizer

# Completions of very different lengths: a mean of means is far from the mean over tokens.
EXAMPLES = [
    Example(f"Question: What comes after {index}?\nAnswer:", " the small bird" * (1 + 3 * (index % 3)))
    for index in range(8)
]
RECIPE = Recipe(steps=4, batch_size=4, micro_batch_size=2, max_length=64, warmup_ratio=0.0)


def adapted() -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(language_model(), config)


def run(model: Any, folder: Path, recipe: Recipe = RECIPE, **options: Any) -> TrainOutcome:
    settings = {"learning_rate": 1e-2, "seed": 0, "output_dir": folder / "checkpoints", **options}
    return train(model, tokenizer(), settings.pop("examples", EXAMPLES), recipe, **settings)


def trained(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def token_losses(model: Any, example: Example) -> Tensor:
    """The oracle: negative log-likelihoods of the label tokens of one example, without any batch."""
    encoded = encode(example, tokenizer(), 64)
    ids, labels = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["labels"])
    logs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)  # (T - 1, V)
    kept = labels[1:] != IGNORED
    return -logs[kept, labels[1:][kept]]  # (label tokens,)


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_every_label_token_of_a_step_weighs_the_same(tmp_path: Path, micro: int) -> None:
    oracle = adapted()
    loss = torch.cat([token_losses(oracle, example) for example in EXAMPLES]).mean()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in oracle.parameters() if p.grad is not None))
    recipe = RECIPE.model_copy(update={"steps": 1, "batch_size": 8, "micro_batch_size": micro})
    (point,) = run(adapted(), tmp_path, recipe).curve
    assert point.loss == pytest.approx(loss.item(), rel=1e-5)
    assert point.grad_norm == pytest.approx(norm, rel=1e-4)


def test_the_prompt_may_have_a_loss_too(tmp_path: Path) -> None:
    oracle = adapted().double()
    losses = []
    for example in EXAMPLES:
        ids = torch.tensor(encode(example, tokenizer(), 64)["input_ids"])
        logs = oracle(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)  # (T - 1, V)
        losses.append(-logs.gather(1, ids[1:, None])[:, 0])  # (T - 1,)
    recipe = RECIPE.model_copy(update={"steps": 1, "batch_size": 8, "loss_on": "all"})
    model = adapted()
    outcome = run(model, tmp_path, recipe, validation=EXAMPLES, learning_rate=0.0)
    assert outcome.curve[0].loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert outcome.validation_loss == pytest.approx(outcome.curve[0].loss, rel=1e-5)


def test_warm_up_may_be_a_number_of_steps(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"schedule": "linear", "warmup_ratio": 0.5, "warmup_steps": 1, "steps": 5})
    rates = [point.learning_rate for point in run(adapted(), tmp_path, recipe).curve]
    assert rates == pytest.approx([0, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_two_runs_are_bit_equal_and_the_seed_matters(tmp_path: Path) -> None:
    models = [adapted() for _ in range(3)]
    one, two, other = (run(model, tmp_path, seed=seed) for model, seed in zip(models, (0, 0, 1), strict=True))
    assert equal(trained(models[0]), trained(models[1]))
    assert one.curve == two.curve
    assert not equal(trained(models[0]), trained(models[2]))
    assert one.curve != other.curve


def test_only_what_requires_a_gradient_changes_and_adapters_stay_active(tmp_path: Path) -> None:
    model = adapted()
    model.add_adapter("anchor", model.peft_config["default"])
    model.base_model.set_adapter(["default", "anchor"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("default" in name)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    run(model, tmp_path)
    assert list(model.active_adapters) == ["default", "anchor"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("default" in name)
    assert not model.training
    assert model.config.use_cache  # generation wants it


def test_curve_and_progress_report_each_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int, float]] = []
    outcome = run(adapted(), tmp_path, on_log=lambda *report: seen.append(report))
    assert [(step, steps) for step, steps, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [point.loss for point in outcome.curve] == [loss for _, _, loss in seen]
    assert outcome.steps == 4
    assert outcome.validation_loss is None
    assert outcome.curve[0].learning_rate == pytest.approx(1e-2)  # no warm-up: the first step has the peak rate
    assert capfd.readouterr() == ("", "")


def test_epochs_count_the_incomplete_last_step(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=4, micro_batch_size=2, max_length=64)
    assert run(adapted(), tmp_path, recipe, examples=EXAMPLES[:7]).steps == 4


def test_validation_loss_is_the_mean_over_tokens(tmp_path: Path) -> None:
    model = adapted()
    outcome = run(model, tmp_path, validation=EXAMPLES[:5])
    with torch.no_grad():
        expected = torch.cat([token_losses(model, example) for example in EXAMPLES[:5]]).mean()
    assert outcome.validation_loss == pytest.approx(float(expected), rel=1e-5)


def test_recomputed_activations_change_memory_only(tmp_path: Path) -> None:
    plain, saving = adapted(), adapted()
    one = run(plain, tmp_path)
    two = run(saving, tmp_path, RECIPE.model_copy(update={"gradient_checkpointing": True}))
    assert [point.loss for point in two.curve] == pytest.approx([point.loss for point in one.curve], rel=1e-5)
    assert not saving.base_model.model.is_gradient_checkpointing


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, poison: float) -> None:
    model = adapted()
    steps = 0

    def explode(*report: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(poison)

    with pytest.raises(DivergedError, match="diverged at step 3 of 4"):
        run(model, tmp_path, on_log=explode)
    assert not model.training
    assert model.config.use_cache


@pytest.mark.parametrize(
    "changed",
    [*({"optimiser": name} for name in OPTIMISERS), {"batching": "length-grouped"}, {"batching": "packed"}],
    ids=lambda changed: "-".join(changed.values()),
)
def test_an_interrupted_run_goes_on_where_it_was(
    changed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={**changed, "weight_decay": 0.1})
    straight, interrupted = adapted(), adapted()
    expected = run(straight, tmp_path / "straight", recipe, seed=3)

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path / "broken", recipe, seed=3, on_log=kill)
    (tmp_path / "broken" / "checkpoints" / "checkpoint-3").mkdir()  # killed while it wrote this one
    (tmp_path / "broken" / "checkpoints" / "notes.txt").touch()
    again = adapted()
    seen: list[int] = []
    started = time.perf_counter()
    outcome = run(again, tmp_path / "broken", recipe, seed=3, on_log=lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]
    assert outcome.seconds > time.perf_counter() - started, "the seconds before the interruption count"
    assert equal(trained(again), trained(straight))
    assert outcome.curve == expected.curve
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "straight" / "checkpoints").exists()


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubinitError, match="no training examples"):
        run(adapted(), tmp_path, examples=[])
    with pytest.raises(HubinitError, match="nothing to train"):
        run(language_model().requires_grad_(False), tmp_path)
    packed = RECIPE.model_copy(update={"batching": "packed"})
    with pytest.raises(HubinitError, match="batching=packed is for texts"):
        run(adapted(), tmp_path, packed, examples=[ImageExample(Image.new("L", (16, 16)), 0)])
    with pytest.raises(HubinitError, match="Unknown optimizer 'adamv': did you mean adamw"):
        run(adapted(), tmp_path, RECIPE.model_copy(update={"optimiser": "adamv"}))


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    points = [CurvePoint(step=step, loss=1.0) for step in range(1, 1001)]
    kept = thin(points)
    assert len(kept) <= training.CURVE_POINTS + training.FIRST_STEPS + 1
    assert [point.step for point in kept[:22]] == [*range(1, 22), 26] and kept[-1].step == 1000
    assert thin(points[:7]) == tuple(points[:7])


def test_an_image_classifier_learns_with_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8,
        num_labels=2,
    )  # fmt: skip
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = get_peft_model(ViTForImageClassification(config), lora)
    images = [ImageExample(Image.new("L", (16, 16), 255 * (index % 2)), index % 2) for index in range(8)]
    recipe = Recipe(steps=12, batch_size=4, micro_batch_size=2, schedule="constant")
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    outcome = train(
        model, processor, images, recipe, learning_rate=1e-2, seed=0, validation=images, output_dir=tmp_path / "c"
    )
    assert outcome.curve[0].loss == pytest.approx(math.log(2), abs=0.3)
    assert outcome.validation_loss is not None
    assert outcome.validation_loss < 0.1
