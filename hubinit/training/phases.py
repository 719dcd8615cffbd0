"""What acts while a model trains: directions chosen after a first phase (LoRA-Dash), and budgets that PEFT redistributes."""

from typing import Any

from peft import PeftModel
from transformers import TrainerCallback

from hubinit.adapters.directions import CHILD, Choose, add_directions, choose_directions, use_directions
from hubinit.training.ranks import take_over


class Warmup(TrainerCallback):  # type: ignore[misc]
    """Chooses the directions after so many optimiser steps. A run that goes on from a checkpoint has them from there."""

    def __init__(self, model: PeftModel, steps: int, count: int, choose: Choose) -> None:
        """Prepares the model, before its optimiser is made.

        Args:
            model: with a plain LoRA adapter.
            steps: optimiser steps of the first phase.
            count: k, directions per layer.
            choose: see `hubinit.adapters.directions`.
        """
        self.model, self.steps, self.choose = model, steps, choose
        add_directions(model, count)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint, if there is one, has been loaded."""
        if state.global_step >= self.steps:
            use_directions(self.model)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each optimiser step, before it writes a checkpoint."""
        if state.global_step == self.steps:
            choose_directions(self.model, self.choose)
            take_over([value for name, value in self.model.named_buffers() if f".{CHILD}." in name])


class Allocation(TrainerCallback):  # type: ignore[misc]
    """Lets an adapter of PEFT redistribute its ranks after each optimiser step (AdaLoRA, AdaMSS).

    What it goes by is in no checkpoint, so there are none: a run that was cut off starts over.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each step of the optimiser, while the gradients are there."""
        self.model.base_model.update_and_allocate(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint may have been asked for."""
        control.should_save = False
