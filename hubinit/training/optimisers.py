"""Optimisers of a run: one frozen object each. A new one is one object and its row in `OPTIMISERS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer

from hubinit.errors import HubinitError, nearest


@dataclass(frozen=True)
class Optimiser:
    """One way to step.

    Attributes:
        name: as in `recipe.optimiser`.
        title: as printed.
        source: the paper or library.
        build: (model, learning rate, weight decay) ─► torch's optimiser over what the model trains.
    """

    name: str
    title: str
    source: str
    build: Callable[[Any, float, float], torch.optim.Optimizer]


def build_adamw(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with torch's defaults; vectors (biases) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def build_lora_plus(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW whose rate for B is 16 times that for A: the ratio that the paper recommends for language models."""
    optimiser: torch.optim.Optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=learning_rate, loraplus_lr_ratio=16.0, loraplus_weight_decay=weight_decay
    )
    return optimiser


OPTIMISERS: dict[str, Optimiser] = {
    optimiser.name: optimiser
    for optimiser in (
        Optimiser("adamw", "AdamW", "arXiv 1711.05101", build_adamw),
        Optimiser("lora+", "LoRA+", "arXiv 2402.12354; peft.optimizers", build_lora_plus),
    )
}


def get(name: str) -> Optimiser:
    """The optimiser with this name.

    Raises:
        HubinitError: there is not one; the message names the nearest.
    """
    if name not in OPTIMISERS:
        raise HubinitError(f"Unknown optimiser '{name}': {nearest(name, list(OPTIMISERS))}")
    return OPTIMISERS[name]
