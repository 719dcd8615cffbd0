"""The gates between a run and a stored score: the start is the promised one, training did something, the reload is exact.

An adapter can be wrong in ways that hardly show: FILet's factors are so small that a missing anchor moves bf16 logits by less
than their rounding. So the start and the reload are measured twice: as they are, and with the adapter's factors scaled up
until ‖s·BA‖ = 0.1 ‖W‖ in every layer. An anchor scales with its adapter, so a right one still cancels, and a missing or
flipped one stands out in every dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from hubinit.adapters import untouched_base
from hubinit.adapters.anchor import ADAPTER, ANCHOR
from hubinit.adapters.base import adapted_layers, detach, is_residual
from hubinit.adapters.report import adapter_checksum
from hubinit.errors import GateError
from hubinit.layers import weight_of

# Largest ‖logits − reference‖ / ‖reference‖ that counts as equal: rounding, amplified through the layers.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
VISIBLE = 0.1  # ‖s·BA‖ / ‖W‖ of the scaled check

Batch = Mapping[str, Tensor]


def check_start(model: PeftModel, batch: Batch, start: Literal["keep", "shift"]) -> float:
    """Measures the start point of a freshly initialised model against its untouched base.

    Args:
        model: from `initialize` (or plain PEFT: an adapter `default` and, where needed, an active adapter `anchor`).
        batch: model inputs; a few short examples will do.
        start: `keep`: the logits must be the base's, also with factors of visible size; `shift`: they must differ.

    Returns:
        The relative deviation of the logits, ‖logits − base‖ / ‖base‖; for `keep` the larger of the two measured.

    Raises:
        GateError: with the measured deviation and the tolerance.
    """
    with evaluating(model), untouched_base(model) as base:
        reference = logits(base, batch)
    with evaluating(model):
        measured = deviation(logits(model, batch), reference)
        if start == "shift":
            if not measured > 0:
                raise GateError("start gate: this method shifts the logits, but they are exactly the base's.")
            return measured
        _require(measured, model, "start gate: the logits at step 0 are not the base's")
        if is_residual(model):  # the anchor is in the base's weights: scaling the adapter alone would undo the balance
            return measured
        with visible(model):
            scaled = deviation(logits(model, batch), reference)
        _require(
            scaled, model, "start gate: with factors of visible size the logits at step 0 are not the base's (anchor?)"
        )
    return max(measured, scaled)


def check_trained(model: PeftModel, batch: Batch) -> float:
    """Measures that training changed the adapter and that the logits differ from the untouched base's.

    Returns:
        ‖logits − base‖ / ‖base‖.

    Raises:
        GateError: nothing changed, or the logits are not finite.
    """
    report = model.__dict__.get("hubinit_report")
    if report is not None and report.checksum == adapter_checksum(model):
        raise GateError("trained gate: the adapter's weights are exactly those of step 0.")
    with evaluating(model):
        with untouched_base(model) as base:
            reference = logits(base, batch)
        measured = deviation(logits(model, batch), reference)
    if not measured > 0:
        raise GateError("trained gate: the logits are exactly the base's (deviation 0).")
    return measured


def check_reload(
    model: PeftModel,
    directory: str | Path,
    batch: Batch,
    base: nn.Module | Callable[[], nn.Module] | None = None,
) -> float:
    """Measures that the exported adapter, loaded by one line of plain PEFT on the untouched base, is the one in memory.

    Args:
        model: the trained model; it is the same afterwards.
        directory: what `export` wrote.
        batch: model inputs.
        base: a fresh base model, or a function that loads one. Default: the model's own base without its adapters.

    Returns:
        ‖reloaded − in memory‖ / ‖in memory‖ of the logits, the larger of: as they are, and with visible factors.

    Raises:
        GateError: with the measured deviation and the tolerance.
    """
    with evaluating(model):
        if base is not None:
            return _check_reload(model, directory, batch, base if isinstance(base, nn.Module) else base())
        with _outputs_before(model, batch) as before, untouched_base(model) as own:
            return _compare(model, before, directory, batch, own)
