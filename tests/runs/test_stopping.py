"""SIGTERM in the middle of a training: a checkpoint, and the next try ends where an undisturbed one does."""

import os
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hubinit.adapters import detach, initialize
from hubinit.data.encode import Example
from hubinit.runs.stopping import Stopped, stop_after_step
from hubinit.specs import Recipe
from hubinit.training.trainer import TrainOutcome, train
from tests import texts

RECIPE = Recipe(steps=5, batch_size=2, micro_batch_size=1, max_length=32)
POOL = [Example(f"What comes after number {i}?", f" {i + 1}") for i in range(8)]


class Terminate(TrainerCallback):
    """Sends the signal at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder: Path, *callbacks: TrainerCallback) -> tuple[TrainOutcome, dict[str, torch.Tensor]]:
    base = texts.language_model()
    model = initialize(base, "lora", rank=2, alpha=4, seed=0)
    try:
        with stop_after_step() as stop:
            outcome = train(
                model,
                texts.tokenizer(),
                POOL,
                RECIPE,
                learning_rate=1e-2,
                seed=3,
                output_dir=folder,
                callbacks=[*callbacks, stop],
            )
        return outcome, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    finally:
        detach(base)


@pytest.mark.parametrize("step", [0, 3])
def test_a_training_that_is_told_to_stop_goes_on_from_its_last_step(tmp_path: Path, step: int) -> None:
    _, undisturbed = fit(tmp_path / "calm")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(tmp_path / "wild", Terminate(step))
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "wild").iterdir()] == [f"checkpoint-{step + 1}"]
    outcome, weights = fit(tmp_path / "wild")
    assert outcome.steps == 5
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


def test_after_the_last_step_there_is_nothing_to_keep(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(tmp_path / "run", Terminate(4))
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert signal.getsignal(signal.SIGTERM) == before
