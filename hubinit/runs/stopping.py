"""A training that is asked to stop leaves a checkpoint first, so that the next try goes on from there."""

import signal
from typing import Any

from transformers import TrainerCallback


class Stopped(BaseException):
    """The process was asked to stop (SIGTERM) and has kept what can be kept: the run is cut off, it did not fail."""


class StopAfterStep(TrainerCallback):  # type: ignore[misc]
    """While a training goes on, SIGTERM ends it after the optimiser step, with a checkpoint. It acts in the main thread only."""

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = signal.SIG_DFL

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer before the first step."""
        self.before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each optimiser step; after the last one there is nothing to keep for a next try."""
        control.should_save = control.should_save or (self.asked and state.global_step < state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint is written."""
        if self.asked:
            raise Stopped

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after the last step."""
        signal.signal(signal.SIGTERM, self.before)
        if self.asked:
            raise Stopped
