"""Tokens per second of a training: what goes through the model, without padding."""

import time
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from hubinit.data.encode import IGNORED


class Throughput(TrainerCallback):  # type: ignore[misc]
    """Counts the tokens of the steps of this process, and the seconds from the first to the end of the last.

    The counts stay on the model's device, so that no step waits for them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inputs: Tensor | int = 0
        self._labels: Tensor | int = 0
        self._begun = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer before the first step."""
        self._begun = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after the last step."""
        self.seconds = time.perf_counter() - self._begun

    def count(self, inputs: dict[str, Any]) -> None:
        """Adds a micro batch; images have no tokens."""
        if "input_ids" not in inputs:
            return
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        self._inputs += mask.sum() if mask is not None and mask.shape == ids.shape else ids.numel()
        self._labels += (inputs["labels"] != IGNORED).sum()

    @property
    def input_tokens(self) -> int:
        """Tokens of prompts and completions."""
        return int(self._inputs)

    @property
    def label_tokens(self) -> int:
        """Tokens that have a loss."""
        return int(self._labels)
