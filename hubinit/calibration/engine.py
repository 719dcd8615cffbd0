"""One forward and backward pass over the calibration data gives every data-aware method what it needs."""

import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from hubinit.calibration.clock import FORWARD_PASS, Work, add_up
from hubinit.calibration.loss import Batch, model_inputs
from hubinit.calibration.memory import LayerShape, MemoryPlan, plan_memory
from hubinit.calibration.passes import Counts, Progress, Request, all_reduce_, device_of, dtype_of, run_pass, to_model
from hubinit.calibration.result import Calibration, fingerprint
from hubinit.calibration.rows import disambiguate, first_example
from hubinit.errors import CalibrationError
from hubinit.models.layers import shape_of, target_layers
from hubinit.numerics.statistics import LayerStatistics, Statistic


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    statistics: Iterable[Statistic],
    target_modules: str | Sequence[str] = "all-linear",
    fisher: Literal["empirical", "sampled"] = "empirical",
    tokens: Literal["attended", "labels"] = "attended",
    memory_budget: int | None = None,
    seed: int = 0,
    on_batch: Progress | None = None,
    on_plan: Callable[[MemoryPlan], None] | None = None,
) -> Calibration:
    """Computes statistics of a model on some data, all in one pass.

    The model is put in evaluation mode and its weights are frozen for the pass; both are restored. Gradients are those of each
    example's summed negative log-likelihood, so nothing depends on the batch size, the padding or the order. Sums are float32
    (float64 for a float64 model). In a `torch.distributed` group every process gives its own share of the data, and all get the
    statistics of the whole. Gradient checkpointing is honoured where the model has it enabled.

    Args:
        model: a transformers model with `nn.Linear` or `Conv1D` layers, or a PeftModel (its base layers are calibrated).
        batches: dicts of tensors: `input_ids` (B, S), `attention_mask` (B, S), `labels` (B, S) with −100 masked or (B,)
            classes; or `pixel_values`, `labels` (B,). A list or DataLoader; a plain iterator where one pass is enough.
        statistics: the sums to accumulate.
        target_modules: which layers, see `hubinit.models.layers.target_layers`.
        fisher: whose labels the output moments use: the data's (`empirical`, both papers' choice) or labels drawn from the
            model's own distribution (`sampled`, a second backward pass). GRADIENT always uses the data's.
        tokens: which tokens count: all attended ones, or with `labels` the label positions (labels ≠ −100) in sums of inputs
            and the positions that predict a label in sums of gradients (those before, in a causal model). GRADIENT always
            counts all attended tokens. Image patches and pooled vectors all count.
        memory_budget: bytes for accumulators on the model's device; see `hubinit.calibration.memory`. None: no limit on a CPU,
            half of the free memory on a GPU.
        seed: of the sampled labels.
        on_batch: called with the number of batches done, over all passes.
        on_plan: called with the memory plan before the pass starts; `str(plan)` is a table.

    Raises:
        CalibrationError: no data, no labels, all labels masked, NaN or infinity (the module and batch are named), a budget that
            cannot be met.
    """
    started = time.perf_counter()
    wanted = frozenset(statistics)
    if not wanted:
        raise CalibrationError("there is nothing to calibrate: name a statistic, or a method that needs one.")
    layers = target_layers(model, target_modules)
    first, batches = _peek(batches)
    with _freeze(model):
        leaders = _discover(model, layers, first)
        layers = {name: layers[name] for name in leaders}
        plan = _plan(layers, leaders, wanted, memory_budget)
        if on_plan is not None:
            on_plan(plan)
        if plan.passes > 1 and isinstance(batches, Iterator):
            raise CalibrationError(
                f"the memory budget needs {plan.passes} passes over the data, and an iterator gives one: pass a list."
            )
        done = _run_passes(Request(model, layers, leaders, plan, wanted, fisher, tokens, seed), batches, on_batch)
    seconds = time.perf_counter() - started
    around = seconds - done.seconds  # finding out how the model is wired belongs to the bare pass
    return replace(done, seconds=seconds, work={**done.work, FORWARD_PASS: done.work[FORWARD_PASS] + around})


def _run_passes(request: Request, batches: Iterable[Batch], on_batch: Progress | None) -> Calibration:
    """All passes of the plan."""
    sums: dict[tuple[str, Statistic], Tensor] = {}
    counts: Counts | None = None
    work: dict[Work, float] = {}
    with tempfile.TemporaryDirectory(prefix="hubinit-") as spill:
        for turn in range(request.plan.passes):
            finished, seen = run_pass(request, batches, turn, on_batch)
            if counts is not None and (seen.tokens, seen.examples) != (counts.tokens, counts.examples):
                raise CalibrationError(
                    "the batches differ between passes over the data: give a list, or fix the order."
                )
            work = add_up(work, seen.work)
            counts = seen if counts is None or seen.label_tokens else counts
            if request.plan.passes > 1:  # what is finished leaves the device, and memory, until it is used
                finished = _spill(finished, Path(spill) / f"{turn}.safetensors")
            sums.update(finished)
    assert counts is not None
    layers = {
        name: LayerStatistics(
            tokens=counts.tokens[name],
            gradient_tokens=counts.gradient_tokens[name],
            examples=counts.examples,
            sums={kind: sums[name, kind] for kind in sorted(request.wanted)},
        )
        for name in request.layers
    }
    return Calibration(
        layers=layers,
        fingerprint=fingerprint(request.model),
        fisher=request.fisher,
        tokens=request.tokens,
        examples=counts.examples,
        loss=counts.loss / counts.label_tokens if counts.label_tokens else float("nan"),
        label_tokens=counts.label_tokens,
        seconds=sum(seconds for part, seconds in work.items() if part.spared_by is None),
        work=work,
    )


def _spill(sums: dict[tuple[str, Statistic], Tensor], file: Path) -> dict[tuple[str, Statistic], Tensor]:
    """The same tensors, mapped from a file instead of held in memory; shared ones stay shared."""
    names = {key: str(id(tensor)) for key, tensor in sums.items()}
    save_file({names[key]: tensor.cpu().contiguous() for key, tensor in sums.items()}, file)
    mapped = load_file(file)  # outlives the file's name
    return {key: mapped[name] for key, name in names.items()}


def _peek(batches: Iterable[Batch]) -> tuple[Batch, Iterable[Batch]]:
    """The first batch, and all of them."""
    iterator = iter(batches)
    first = next(iterator, None)
    if dist.is_initialized():
        counts = torch.zeros(dist.get_world_size())
        counts[dist.get_rank()] = first is not None
        all_reduce_(counts)
        if not counts.all():
            empty = [index for index, count in enumerate(counts.tolist()) if not count]
            raise CalibrationError(f"processes {empty} have no calibration batch: give every process at least one.")
    if first is None:
        raise CalibrationError("there are no calibration batches: give at least one.")
    return first, itertools.chain([first], iterator) if iterator is batches else batches


@contextmanager
def _freeze(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen weights, and gradient checkpointing that works in evaluation mode; all restored."""
    training = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # transformers checkpoints in training mode only, which would switch dropout on.
    checkpointed = [
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    ]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        for layer in checkpointed:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer in checkpointed:
            layer.__dict__.pop("forward", None)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode


def _discover(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> dict[str, str]:
    """Layer → the first layer that sees the same input tensor (itself when alone), in the order in which they run.

    One example goes through the model once. Layers that it does not reach are left out, with a warning.
    """
    seen: list[tuple[str, Tensor]] = []  # the tensors are held, so that no address is used twice

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append((name, args[0]))

    handles = [module.register_forward_pre_hook(partial(note, name)) for name, module in layers.items()]
    try:
        example = disambiguate(model, first_example(batch))
        with torch.no_grad():
            model(**to_model(model, model_inputs(model, example, None)))
    finally:
        for handle in handles:
            handle.remove()
    calls = [name for name, _ in seen]
    owners: dict[tuple[int, int, tuple[int, ...]], str] = {}
    leaders: dict[str, str] = {}
    for name, x in seen:
        # A layer that runs more than once sees several inputs: it keeps its own sums.
        key = (x.data_ptr(), x._version, tuple(x.shape))
        alone = calls.count(name) > 1
        leaders.setdefault(name, name if alone else owners.setdefault(key, name))
    missed = [name for name in layers if name not in leaders]
    if missed:
        warnings.warn(
            f"the calibration data does not reach {len(missed)} of {len(layers)} target layers ({', '.join(missed[:3])}, …): "
            "they have no statistics.",
            stacklevel=3,
        )
    if not leaders:
        raise CalibrationError("the calibration data reaches none of the target layers.")
    return leaders


def _plan(
    layers: Mapping[str, nn.Module], leaders: Mapping[str, str], wanted: frozenset[Statistic], budget: int | None
) -> MemoryPlan:
    shapes = [LayerShape(name, *shape_of(module), leaders[name]) for name, module in layers.items()]
    first = next(iter(layers.values()))
    device, host = device_of(first), 0
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2 if budget is None else budget
        host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return plan_memory(shapes, wanted, budget, host_budget=host, itemsize=8 if dtype_of(first) == torch.float64 else 4)
