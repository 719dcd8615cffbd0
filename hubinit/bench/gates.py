"""The gates between a run and a stored score: the start is the promised one, training did something, the reload is exact.

An adapter can be wrong in ways that hardly show: FILet's factors are so small that a missing anchor moves bf16 logits by less
than their rounding. So the start and the reload are measured twice: as they are, and with the adapter's factors scaled up
until ‖s·BA‖ = 0.1 ‖W‖ in every layer. An anchor scales with its adapter, so a right one still cancels, and a missing or
flipped one stands out in every dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from hubinit.adapters import untouched_base
from hubinit.adapters.anchor import ADAPTER, ANCHOR
from hubinit.adapters.base import adapted_layers, is_residual, strip
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
        expected = logits(model, batch)
        scales: dict[str, float] = {}
        if not is_residual(model):
            with visible(model) as scales:
                expected_visible = logits(model, batch)
        with (
            untouched_base(model)
            if base is None
            else nullcontext(base if isinstance(base, nn.Module) else base()) as own
        ):
            reloaded = PeftModel.from_pretrained(own, str(directory)).eval()
            try:
                measured = deviation(logits(reloaded, batch), expected)
                if scales:
                    layers = adapted_layers(reloaded)
                    for name, scale in scales.items():
                        layers[name].lora_B[ADAPTER].weight.mul_(scale)
                    measured = max(measured, deviation(logits(reloaded, batch), expected_visible))
            finally:
                strip(own)
        _require(measured, model, f"reload gate: the adapter in {directory} is not the one in memory")
    return measured


@contextmanager
def visible(model: PeftModel) -> Iterator[dict[str, float]]:
    """Scales B of the adapter, and of its anchor, until ‖ΔW‖ = 0.1 ‖W‖ of the adapter alone, for a `with` block.

    Yields:
        Module name → the factor its B was multiplied by. Empty for adapters without such a factor (`peft:<type>`).
    """
    scales: dict[str, float] = {}
    saved: list[tuple[Tensor, Tensor]] = []
    for name, layer in adapted_layers(model).items():
        factors = getattr(layer, "lora_B", None) or getattr(layer, "peanut_B", None)
        if factors is None or ADAPTER not in factors:
            continue
        norm = float(layer.get_delta_weight(ADAPTER).norm())
        scale = VISIBLE * float(weight_of(layer.get_base_layer(), name).norm()) / norm if norm > 0 else 1.0
        scales[name] = scale
        for adapter in (ADAPTER, ANCHOR):
            if adapter in factors:
                weight = factors[adapter].weight
                saved.append((weight, weight.detach().clone()))
                weight.data.mul_(scale)
    try:
        yield scales
    finally:
        for weight, original in saved:
            weight.data.copy_(original)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for a `with` block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """The model's logits in float32 (float64 stays).

    Raises:
        GateError: they are not finite.
    """
    device = next(model.parameters()).device
    output: Tensor = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
    if not output.isfinite().all():
        raise GateError("the logits hold NaN or infinity.")
    return output if output.dtype == torch.float64 else output.float()


def deviation(measured: Tensor, reference: Tensor) -> float:
    """‖measured − reference‖ / ‖reference‖."""
    return float((measured - reference).norm() / reference.norm())


def tolerance_of(model: PeftModel) -> float:
    """The tolerance for the coarsest dtype among the base's weights; bfloat16's for quantised ones."""
    dtypes = {layer.get_base_layer().weight.dtype for layer in adapted_layers(model).values()}
    return max(TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16]) for dtype in dtypes)


def _require(measured: float, model: PeftModel, message: str) -> None:
    tolerance = tolerance_of(model)
    if not measured <= tolerance:
        raise GateError(f"{message}: relative deviation {measured:.2e}, tolerance {tolerance:.0e}.")
