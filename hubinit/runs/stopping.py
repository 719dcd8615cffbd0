"""A training that is asked to stop leaves a checkpoint first, so that the next try goes on from there."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class Stopped(BaseException):
    """The process was asked to stop (SIGTERM) and has kept what can be kept: the run is cut off, it did not fail."""


class StopAfterStep(TrainerCallback):  # type: ignore[misc]
    """Ends a training after the optimiser step in which it was asked to, with a checkpoint unless that step was the last."""

    asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each optimiser step."""
        control.should_save = control.should_save or (self.asked and state.global_step < state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when a checkpoint is written."""
        if self.asked:
            raise Stopped


@contextmanager
def stop_after_step() -> Iterator[StopAfterStep]:
    """Inside the block SIGTERM ends a training that has this callback. For the main thread.

    Raises:
        Stopped: the process was asked to stop; also where the training had just ended.
    """
    callback = StopAfterStep()

    def ask(number: int, frame: Any) -> None:
        callback.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield callback
    finally:
        signal.signal(signal.SIGTERM, before)
    if callback.asked:
        raise Stopped
