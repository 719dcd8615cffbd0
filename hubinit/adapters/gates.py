"""The gates between a run and a stored score: the start is the promised one, training did something, the reload is exact.

Logits alone cannot tell: in bf16 thirty layers of rounding move them by 2 %, and FILet's factors are so small that a missing
anchor moves them by less. So the start and the reload are measured twice: the logits of the whole model, and every adapted
layer by itself, in float32 and without its base weight, on random inputs, relative to the size of what the adapter computes.
A missing or flipped anchor is then an error of 100 %, however small the factors and whatever the base's dtype.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.adalora.layer import AdaLoraLayer
from torch import Tensor, nn

from hubinit.adapters.anchor import ADAPTER, ANCHOR, has_anchor
from hubinit.adapters.base import adapted_layers, is_residual, strip, tied_layers, untouched_base
from hubinit.adapters.freezing import frozen_in
from hubinit.adapters.lines import run_lines, start_lines
from hubinit.adapters.passthrough import rewrites_base
from hubinit.adapters.report import adapter_checksum
from hubinit.adapters.solving import generator_for
from hubinit.errors import GateError
from hubinit.models.layers import base_of, is_quantised, shape_of, weight_of

# Largest ‖logits − reference‖ / ‖reference‖ that counts as equal: rounding, amplified through the layers.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
LAYER_TOLERANCE = 1e-3  # of one adapted layer, computed in float32
PROBES = 4  # random inputs per layer
HALVES = (torch.float16, torch.bfloat16)

Batch = Mapping[str, Tensor]


def check_start(model: PeftModel, batch: Batch, start: Literal["keep", "shift"]) -> float:
    """Measures the start point of a freshly initialised model against its untouched base.

    Args:
        model: from `initialize` or `load_initialized`.
        batch: model inputs; a few short examples will do.
        start: `keep`: the logits must be the base's, and no layer may add anything; `shift`: the logits must differ, and
            every layer must add the s·B₀A₀x of its factors.

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
            _check_shift(model)
            return measured
        _require(measured, tolerance_of(model), "start gate: the logits at step 0 are not the base's")
        if not is_residual(model):  # there the anchor is in the base's weights, and the logits say all
            for name, layer in adapted_layers(model).items():
                output, size = adapter_output(layer, name)
                if size > 0:
                    error = float(output.norm()) / size
                    _require(error, LAYER_TOLERANCE, f"start gate: {name} does not start at its base weight (anchor?)")
    return measured


def _check_shift(model: PeftModel) -> None:
    """Every layer must add s·B₀A₀x: the factors that were solved for, of the size that was reported, with the s asked for.

    The adapter of PEFT's own initialisers (KaSA) is not in the report by module, and is left to the logits.
    """
    report = model.__dict__.get("hubinit_report")
    if report is None or not report.modules:
        return
    message = "start gate: the shift of {} is not s·B₀A₀x: its {} is wrong"
    for name, layer in adapted_layers(model).items():
        solved = report.modules[name]
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight  # (r, n), (m, r)
        norm = float(weight_of(layer.get_base_layer(), name).norm()) or torch.finfo(torch.float32).eps
        size = solved.scaling * float((B @ A).norm()) / norm
        error = abs(size - solved.relative_norm) / max(size, solved.relative_norm, torch.finfo(torch.float32).tiny)
        _require(error, LAYER_TOLERANCE, message.format(name, "size"))
        output, _ = adapter_output(layer, name)  # (PROBES, m)
        x = probes(layer.get_base_layer(), name)  # (PROBES, n)
        expected = solved.scaling * (x.to(A.dtype) @ A.T @ B.T)  # (PROBES, m)
        scale = max(float(expected.norm()), float(output.norm()))
        if scale > 0:
            error = float((output - expected).norm()) / scale
            _require(error, LAYER_TOLERANCE, message.format(name, "sign or scale"))
    if report.checksum != adapter_checksum(model):
        raise GateError("start gate: the factors are not those that were computed (their sign, or a value, changed).")


def check_printed(
    model: PeftModel, directory: str | Path, batch: Batch, start: Literal["keep", "shift"]
) -> float | None:
    """Measures what is published: the saved start, rebuilt on the float32 base by the lines that the card prints.

    The saved factors are compared layer by layer too, because minute ones hide in the logits' rounding.

    The lines run on the model's own base: its weights are float32 while they do, and what the lines change is put back. A
    base in half precision takes 4 bytes more per parameter for that time; a float32 one a copy of the weights with an anchor.

    Args:
        model: from `initialize`; it is the same afterwards.
        directory: what `save_initialized` wrote.
        batch: model inputs.
        start: `keep`: the logits must be those of the base; `shift`: those of the model in memory, in float32.

    Returns:
        ‖rebuilt − expected‖ / ‖expected‖ of the logits; None for a quantised base, whose weights the lines would load anew.

    Raises:
        GateError: with the measured deviation and the tolerance, or what the lines leave trainable although it is frozen.
    """
    if any(is_quantised(layer.get_base_layer()) for layer in adapted_layers(model).values()):
        return None
    directory = Path(directory)
    config = PeftConfig.from_pretrained(str(directory))
    frozen, anchored = frozen_in(directory, config), (directory / ANCHOR).is_dir()
    lines = start_lines(str(directory), anchored=anchored, tied=bool(tied_layers(model)), frozen=frozen)
    # KaSA's configuration rewrites weights when PEFT reads it, with or without an anchor/.
    rewritten = list(adapted_layers(model)) if has_anchor(model) else []
    batch = in_float32(batch)
    whole = not rewrites_base(config) and not is_residual(model)  # all that the start adds is in its layers
    with evaluating(model):
        errors = _saved_errors(model, directory, anchored) if whole else {}
        if start == "shift":
            with float32_scratch(base_of(model)):
                expected = logits(model, batch)
        with untouched_base(model) as base, float32_scratch(base, rewritten):
            if start == "keep":
                expected = logits(base, batch)
            try:
                printed = run_lines(lines, base).eval()
                measured = deviation(logits(printed, batch), expected)
                trained = [name for name, parameter in printed.named_parameters() if parameter.requires_grad]
            finally:
                strip(base)
    _require(
        measured, TOLERANCE[torch.float32], f"start gate: the printed lines do not rebuild the start in {directory}"
    )
    for name, error in errors.items():
        _require(error, LAYER_TOLERANCE, f"start gate: the files in {directory} are not the start in memory in {name}")
    for parameter in frozen:
        if any(f".{parameter}." in name for name in trained):
            raise GateError(f"start gate: the printed lines leave {parameter} trainable, which this method freezes.")
    return measured


def _saved_errors(model: PeftModel, directory: Path, anchored: bool) -> dict[str, float]:
    """How far each layer of a saved start, as PEFT reads it with adapter and anchor side by side, is from the one in memory."""
    outputs = {name: adapter_output(layer, name) for name, layer in adapted_layers(model).items()}
    with untouched_base(model) as base:
        try:
            saved = PeftModel.from_pretrained(base, str(directory))
            if anchored:
                saved.load_adapter(str(directory / ANCHOR), ANCHOR)
                saved.base_model.set_adapter([ADAPTER, ANCHOR])
            return _layer_errors(saved.eval(), outputs)
        finally:
            strip(base)


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
    tolerance = tolerance_of(model)
    measured, errors = _reload(model, directory, batch, base)
    if (
        measured > tolerance and base is None and is_half(model)
    ):  # where large terms cancel, half precision hides who is right
        with float32_scratch(base_of(model)):
            measured, errors = _reload(model, directory, in_float32(batch), None)
        tolerance = TOLERANCE[torch.float32]
    _require(measured, tolerance, message)
    for name, error in errors.items():
        _require(error, LAYER_TOLERANCE, f"{message} in {name}")
    return measured


def _reload(
    model: PeftModel, directory: str | Path, batch: Batch, base: nn.Module | Callable[[], nn.Module] | None
) -> tuple[float, dict[str, float]]:
    """The deviation of the logits, and of each layer, of an adapter that plain PEFT loads; see `check_reload`."""
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
                return deviation(logits(reloaded, batch), expected), _layer_errors(reloaded, outputs)
            finally:
                strip(own)


def _layer_errors(reloaded: PeftModel, outputs: Mapping[str, tuple[Tensor, float]]) -> dict[str, float]:
    """How far each reloaded layer is from what `adapter_output` gave before; layers that add nothing are left out."""
    layers = adapted_layers(reloaded)
    if lost := sorted(outputs.keys() - layers.keys()):
        raise GateError(f"the saved adapter lacks {lost[0]}, which the model in memory has ({len(lost)} such modules).")
    return {
        name: float((adapter_output(layers[name], name)[0] - output).norm()) / size
        for name, (output, own_size) in outputs.items()
        if (size := max(own_size, float(output.norm()))) > 0
    }


def adapter_output(layer: Any, name: str) -> tuple[Tensor, float]:
    """What an adapted layer adds to its base layer, computed by PEFT's own forward pass with a base that gives zeros.

    Args:
        layer: PEFT's wrapper.
        name: seeds the random inputs.

    Returns:
        The output (PROBES, m) in float32, and the norm of the r terms `s·b_k a_kᵀ x` of the adapter or its anchor, whichever is
        larger, before they cancel each other; 0 where there are no such factors.
    """
    base = layer.get_base_layer()
    m, _ = shape_of(base)
    x = probes(base, name)  # (PROBES, n)
    replaced = base.__dict__.get("forward")
    base.forward = lambda x, *args, **kwargs: x.new_zeros(*x.shape[:-1], m)
    try:
        output: Tensor = layer(x)  # (PROBES, m)
    finally:
        del base.forward
        if replaced is not None:
            base.forward = replaced
    sizes = [0.0]
    for adapter in (ADAPTER, ANCHOR):
        if adapter in getattr(layer, "lora_B", ()) and not isinstance(
            layer, AdaLoraLayer
        ):  # its factors are scaled by E
            columns = layer.lora_B[adapter].weight.norm(dim=0)  # (r,)
            terms = layer.lora_A[adapter](x) * columns * layer.scaling[adapter]  # (PROBES, r)
            sizes.append(float(terms.norm()))
    return output, max(sizes)


def probes(base: Any, name: str) -> Tensor:
    """Random inputs (PROBES, n) of a linear layer, the same for the same name."""
    device = base.weight.device
    return torch.randn(PROBES, shape_of(base)[1], generator=generator_for(0, name, device), device=device)


@contextmanager
def float32_scratch(base: nn.Module, names: Sequence[str] = ()) -> Iterator[None]:
    """Half-precision weights as float32 for a `with` block, in which those of the layers `names` may change and a head be untied.

    Args:
        base: afterwards it is as it was, bit for bit.
        names: float32 layers among them are copied.
    """
    tensors = [*base.parameters(), *base.buffers()]
    stored = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
    modules = [base.get_submodule(name) for name in names]
    written = {id(module.weight) for module in modules}
    head = output_head(base)
    weight = head._parameters.get("weight") if head is not None else None
    tied = base.config.tie_word_embeddings if weight is not None else None  # type: ignore[union-attr]
    try:
        for tensor in tensors:
            if tensor.dtype in HALVES:
                tensor.data = tensor.data.float()
            elif id(tensor) in written:
                tensor.data = tensor.data.clone()
        yield
    finally:
        if head is not None and weight is not None:
            head._parameters["weight"] = weight
            base.config.tie_word_embeddings = tied  # type: ignore[union-attr]
        for tensor, data, required in stored:
            tensor.data = data
            tensor.requires_grad_(required)


def in_float32(batch: Batch) -> Batch:
    """A batch for a base in `float32_scratch`."""
    return {name: tensor.float() if tensor.dtype in HALVES else tensor for name, tensor in batch.items()}


def output_head(base: Any) -> nn.Module | None:
    """The language-model head, where there is one."""
    try:
        head = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, nn.Module) else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients and whole float32 products for a `with` block: TF32 is coarser than the tolerances."""
    training, precision = model.training, torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
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
    dtypes = dtypes or {parameter.dtype for parameter in model.parameters()}  # a linear probe adapts no layer
    return max(TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16]) for dtype in dtypes)


def is_half(model: PeftModel) -> bool:
    """Whether the base has weights in half precision, and none that are quantised."""
    layers = [layer.get_base_layer() for layer in adapted_layers(model).values()]
    return any(layer.weight.dtype in HALVES for layer in layers) and not any(map(is_quantised, layers))


def _require(measured: float, tolerance: float, message: str) -> None:
    if not measured <= tolerance:
        raise GateError(f"{message}: relative deviation {measured:.2e}, tolerance {tolerance:.0e}.")
