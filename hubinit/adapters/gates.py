"""The gates between a run and a stored score: the start is the promised one, training did something, the reload is exact.

Logits alone cannot tell: in bf16 thirty layers of rounding move them by 2 %, and FILet's factors are so small that a missing
anchor moves them by less. So the start and the reload are measured twice: the logits of the whole model, and every adapted
layer by itself, in float32 and without its base weight, on random inputs, relative to the size of what the adapter computes.
A missing or flipped anchor is then an error of 100 %, however small the factors and whatever the base's dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from hubinit.adapters import untouched_base
from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import adapted_layers, is_residual, strip
from hubinit.adapters.report import adapter_checksum
from hubinit.adapters.solving import generator_for
from hubinit.errors import GateError
from hubinit.models.layers import shape_of

# Largest ‖logits − reference‖ / ‖reference‖ that counts as equal: rounding, amplified through the layers.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
LAYER_TOLERANCE = 1e-3  # of one adapted layer, computed in float32 (1e-6 on a CPU) or TF32
PROBES = 4  # random inputs per layer

Batch = Mapping[str, Tensor]


def check_start(model: PeftModel, batch: Batch, start: Literal["keep", "shift"]) -> float:
    """Measures the start point of a freshly initialised model against its untouched base.

    Args:
        model: from `initialize` or `load_initialized`.
        batch: model inputs; a few short examples will do.
        start: `keep`: the logits must be the base's, and no layer may add anything; `shift`: the logits must differ.

    Returns:
        The relative deviation of the logits, ‖logits − base‖ / ‖base‖.

    Raises:
        GateError: with the measured deviation and the tolerance.
    """
    with evaluating(model):
        with untouched_base(model) as base:
            reference = logits(base, batch)
        measured = deviation(logits(model, batch), reference)
        if start == "shift":
            if not measured > 0:
                raise GateError("start gate: this method shifts the logits, but they are exactly the base's.")
            return measured
        _require(measured, tolerance_of(model), "start gate: the logits at step 0 are not the base's")
        if not is_residual(model):  # there the anchor is in the base's weights, and the logits say all
            for name, layer in adapted_layers(model).items():
                output, size = adapter_output(layer, name)
                if size > 0:
                    error = float(output.norm()) / size
                    _require(error, LAYER_TOLERANCE, f"start gate: {name} does not start at its base weight (anchor?)")
    return measured


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
        ‖reloaded − in memory‖ / ‖in memory‖ of the logits.

    Raises:
        GateError: with the measured deviation and the tolerance.
    """
    message = f"reload gate: the adapter in {directory} is not the one in memory"
    own: nn.Module
    with evaluating(model):
        expected = logits(model, batch)
        # A folded anchor is in the base's weights: its layers cannot be compared without them.
        outputs = (
            {}
            if is_residual(model)
            else {name: adapter_output(layer, name) for name, layer in adapted_layers(model).items()}
        )
        fresh = base if base is None or isinstance(base, nn.Module) else base()
        with untouched_base(model) if fresh is None else nullcontext(fresh) as own:
            reloaded = PeftModel.from_pretrained(own, str(directory)).eval()
            try:
                measured = deviation(logits(reloaded, batch), expected)
                layers = adapted_layers(reloaded)
                errors = {
                    name: float((adapter_output(layers[name], name)[0] - output).norm()) / size
                    for name, (output, own_size) in outputs.items()
                    if (size := max(own_size, float(output.norm()))) > 0
                }
            finally:
                strip(own)
    _require(measured, tolerance_of(model), message)
    for name, error in errors.items():
        _require(error, LAYER_TOLERANCE, f"{message} in {name}")
    return measured


def adapter_output(layer: Any, name: str) -> tuple[Tensor, float]:
    """What an adapted layer adds to its base layer, computed by PEFT's own forward pass with a base that gives zeros.

    Args:
        layer: PEFT's wrapper.
        name: seeds the random inputs.

    Returns:
        The output (PROBES, m) in float32, and the norm of its r terms `s·b_k a_kᵀ x`, before an anchor or each other cancels
        them; 0 where the adapter has no such factors.
    """
    base = layer.get_base_layer()
    m, n = shape_of(base)
    device = base.weight.device
    x = torch.randn(PROBES, n, generator=generator_for(0, name, device), device=device)  # (PROBES, n)
    replaced = base.__dict__.get("forward")
    base.forward = lambda x, *args, **kwargs: x.new_zeros(*x.shape[:-1], m)
    try:
        output: Tensor = layer(x)  # (PROBES, m)
    finally:
        del base.forward
        if replaced is not None:
            base.forward = replaced
    own = torch.zeros(())
    if ADAPTER in getattr(layer, "lora_B", ()):
        columns = layer.lora_B[ADAPTER].weight.norm(dim=0)  # (r,)
        own = layer.lora_A[ADAPTER](x) * columns * layer.scaling[ADAPTER]  # (PROBES, r)
    return output, float(own.norm())


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


def _require(measured: float, tolerance: float, message: str) -> None:
    if not measured <= tolerance:
        raise GateError(f"{message}: relative deviation {measured:.2e}, tolerance {tolerance:.0e}.")
