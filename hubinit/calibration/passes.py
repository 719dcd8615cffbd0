"""One pass over the calibration data: forward, backward, sums, reduction over processes, and the statistics they give."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hubinit.calibration.clock import (
    BACKWARD_PASS,
    FORWARD_PASS,
    GRADIENT_PASS,
    PASSES,
    SAMPLED_PASS,
    Clock,
    Work,
    add_up,
)
from hubinit.calibration.fisher_energy import Candidates, divide
from hubinit.calibration.loss import Batch, Supervision, draw_uniforms, loss_gradient, model_inputs, supervise
from hubinit.calibration.memory import Key, Kind, MemoryPlan, Moment
from hubinit.calibration.rows import disambiguate, rows_of
from hubinit.calibration.taps import BACKWARD, Taps, taps_of
from hubinit.errors import CalibrationError
from hubinit.models.layers import is_conv1d, is_quantised, weight_of
from hubinit.numerics.products import gram, sum_dtype
from hubinit.numerics.statistics import Statistic

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Request:
    """What one `calibrate` call asks for."""

    model: nn.Module
    layers: Mapping[str, nn.Module]
    leaders: Mapping[str, str]
    plan: MemoryPlan
    wanted: frozenset[Statistic]
    fisher: Literal["empirical", "sampled"]
    tokens: Literal["attended", "labels"]
    seed: int

    @property
    def head(self) -> nn.Module | None:
        """The layer that gives the logits, where the model names one."""
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        return head if isinstance(head, nn.Module) else None

    @property
    def all_logits(self) -> bool:
        """Whether the head is a target itself, so that it must see every position."""
        return any(layer is self.head for layer in self.layers.values())


@dataclass
class Counts:
    """What a pass has seen.

    Attributes:
        examples: how many.
        label_tokens: how many labels.
        loss: their summed negative log-likelihood.
        tokens: layer → how many tokens the sums of inputs count.
        gradient_tokens: layer → how many the sums of gradients count.
        work: what the parts of the pass took, in seconds.
    """

    examples: int = 0
    label_tokens: int = 0
    loss: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)
    gradient_tokens: dict[str, int] = field(default_factory=dict)
    work: dict[Work, float] = field(default_factory=dict)


def run_pass(
    request: Request, batches: Iterable[Batch], turn: int, on_batch: Progress | None
) -> tuple[dict[tuple[str, Statistic], Tensor], Counts]:
    """Runs all batches once and returns the statistics whose accumulators belong to this turn of the plan."""
    begun = time.perf_counter()
    first = next(iter(request.layers.values()))
    devices = {name: device_of(module) for name, module in request.layers.items()}
    taps = taps_of(request.layers, request.leaders, request.plan, turn, devices, sum_dtype(dtype_of(first)))
    counts = Counts()
    done = 0
    with taps, _time_head(request, taps):
        for index, batch in enumerate(batches):
            _one_batch(request, taps, batch, index, counts)
            done += 1
            if on_batch is not None:
                on_batch(done)
    counts.tokens = {name: tap.tokens for name, tap in taps.taps.items()}
    counts.gradient_tokens = {name: tap.gradient_tokens for name, tap in taps.taps.items()}
    _reduce(taps, counts)
    if taps.backward and not counts.label_tokens:
        raise CalibrationError(
            "every label of the calibration data is masked (−100): there is no loss to differentiate."
        )
    empty = next((name for name, tokens in counts.tokens.items() if tokens == 0), None)
    if empty is not None:
        raise CalibrationError(f"no token of the calibration data counts at {empty}: everything is masked.")
    finished = _finish(request, taps)
    taps.clock.settle()
    counts.work = _share_out(request.plan, turn, taps.clock, time.perf_counter() - begun)
    return finished, counts


@contextmanager
def _time_head(request: Request, taps: Taps) -> Iterator[None]:
    """Counts the output head to the backward pass: without gradients it sees one position only."""
    head, begun = request.head, []
    if head is None or request.all_logits or not taps.backward:
        yield
        return
    device = device_of(head)
    handles = [
        head.register_forward_pre_hook(lambda *_: begun.append(taps.clock.start(device))),
        head.register_forward_hook(lambda *_: taps.clock.stop(BACKWARD_PASS, begun.pop(), device)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _share_out(plan: MemoryPlan, turn: int, clock: Clock, total: float) -> dict[Work, float]:
    """What the parts of one pass took; the forward pass is what is left of the total (s) when all others are taken off.

    Every statistic needs the first pass over the data. Further ones are needed by all sums that share the memory, in
    proportion to their size.
    """
    work = {label: seconds for label, seconds in clock.seconds.items() if isinstance(label, Work)}
    work[FORWARD_PASS] = total - sum(clock.seconds.values())
    again = sum(work.pop(part, 0.0) for part in PASSES) if turn else 0.0
    size = sum(item.size for item in plan.accumulators.values())
    for key, item in plan.accumulators.items():
        seconds = clock.seconds.get(key, 0.0) + again * item.size / size
        work = add_up(work, {part: share * seconds for part, share in plan.works[key].items()})
    return work


def _one_batch(request: Request, taps: Taps, batch: Batch, index: int, counts: Counts) -> None:
    """Forward, and the backward passes that the sums of this turn need."""
    batch = disambiguate(request.model, {key: value.cpu() for key, value in batch.items()})
    supervision = supervise(request.model, batch, all_logits=request.all_logits) if taps.backward else None
    taps.batch = rows_of(request.model, batch, supervision, request.tokens)
    counts.examples += taps.batch.examples
    inputs = to_model(request.model, model_inputs(request.model, batch, supervision, all_logits=request.all_logits))
    if supervision is None:
        with torch.no_grad():
            request.model(**inputs)
    else:
        counts.loss += _differentiate(request, taps, batch, inputs, supervision)
        counts.label_tokens += len(supervision.row)
    name = taps.first_not_finite()
    taps.clock.settle()  # the device has just been waited for
    if name is not None or counts.loss != counts.loss:
        where = _origin(request.model, inputs) or f"the gradients of {name}" if name is not None else "the loss"
        raise CalibrationError(
            f"NaN or infinity in {where} in batch {index}: look at that batch, or load the model in float32 or bfloat16 "
            "if it is in float16."
        )


def _differentiate(
    request: Request, taps: Taps, batch: Batch, inputs: dict[str, Any], supervision: Supervision
) -> float:
    """The summed loss of a batch; its gradients reach the taps."""
    with torch.enable_grad():
        output = request.model(**inputs)
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    logits = logits.reshape(-1, logits.shape[-1])  # (rows, classes)
    kinds = frozenset(kind for tap in taps.taps.values() for kind in tap.totals) & BACKWARD
    if request.fisher == "empirical":
        turns: list[tuple[frozenset[Kind], Tensor | None, Work]] = [(kinds, None, BACKWARD_PASS)]
    else:  # G needs the data's labels, the Fisher the model's own
        drawn = draw_uniforms(batch, supervision, request.seed)
        turns = [
            (kinds & {Statistic.GRADIENT}, None, GRADIENT_PASS),
            (kinds - {Statistic.GRADIENT}, drawn, SAMPLED_PASS),
        ]
        turns = [turn for turn in turns if turn[0]]
    total = float("nan")
    for position, (active, uniform, work) in enumerate(turns):
        with taps.clock.measure(work, logits.device):
            gradient, loss = loss_gradient(logits.detach(), supervision, uniform)
            taps.active, taps.around, taps.recomputing = active, work, True
            try:
                logits.backward(gradient, retain_graph=position + 1 < len(turns))
            finally:
                taps.recomputing = False
            del gradient
        total = float(loss) if position == 0 else total
    return total


def _origin(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """The first module whose output is not finite, found by running the batch again; None when all are."""
    found: list[str] = []

    def look(name: str, module: nn.Module, args: object, output: object) -> None:
        if (
            not found
            and isinstance(output, Tensor)
            and output.is_floating_point()
            and not bool(output.isfinite().all())
        ):
            found.append(f"the output of {name}")

    handles = [module.register_forward_hook(partial(look, name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _finish(request: Request, taps: Taps) -> dict[tuple[str, Statistic], Tensor]:
    """Statistics from the accumulators of this turn, layer by layer; a moment is dropped after its last use."""
    totals: dict[Key, Tensor] = {
        (name, kind): total.finish() for name, tap in taps.taps.items() for kind, total in tap.totals.items()
    }
    for tap in taps.taps.values():
        tap.totals.clear()
    sources = {use: key for use, key in request.plan.sources.items() if key in totals}
    last = {key: use for use, key in sources.items()}
    finished: dict[tuple[str, Statistic], Tensor] = {}
    owner, candidates = "", None
    filet = frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})
    for (name, statistic), key in sources.items():
        total = totals[key]
        if statistic in (Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT):
            device = device_of(request.layers[name])
            if name != owner or candidates is None:
                with taps.clock.measure(Work(filet & request.wanted), device):
                    owner, candidates = name, _candidates(request.layers[name], name)
            with taps.clock.measure(Work(frozenset({statistic})), device):
                total = _energies(candidates, statistic, key[1], total.to(candidates.weight.device))
        elif key[1] != statistic:
            total = total.diagonal().clone()  # OUTPUT_DIAGONAL of OUTPUT_MOMENT
        finished[name, statistic] = total
        if last[key] == (name, statistic):
            del totals[key]
    return finished


def _candidates(module: nn.Module, name: str) -> Candidates:
    """FILet's candidates of a layer; the Gram matrix of a bfloat16 weight is exact and faster from the weight itself."""
    weight = weight_of(module, name)
    stored = module.weight
    if is_quantised(module) or not isinstance(stored, Tensor):
        return Candidates.of(weight)
    stored = stored.detach()
    stored = stored.T if is_conv1d(module) else stored  # (m, n)
    return Candidates.of(weight, gram(stored if len(weight) >= weight.shape[1] else stored.T))


def _energies(candidates: Candidates, statistic: Statistic, kind: Kind, total: Tensor) -> Tensor:
    """FILet's sums (n,) from what was accumulated for them."""
    match kind:
        case Statistic.FISHER_INPUT:
            return divide(total, candidates.v_squares)
        case Statistic.FISHER_OUTPUT:
            return divide(total, candidates.uv_squares)
        case Statistic.INPUT_MOMENT:
            return candidates.input_energies(input_moment=total)
        case Moment.LINEAR_OUTPUT_MOMENT:
            return candidates.input_energies(output_moment=total)
        case Statistic.OUTPUT_MOMENT:
            return candidates.output_energies(output_moment=total)
        case Moment.INPUT_GRADIENT_MOMENT:
            return candidates.output_energies(input_gradient_moment=total)
    raise AssertionError(f"{statistic} does not follow from {kind}")


def _reduce(taps: Taps, counts: Counts) -> None:
    """Sums over all processes of a `torch.distributed` group, exactly as adding calibrations of disjoint data."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    names = list(counts.tokens)
    numbers = torch.tensor(
        [
            counts.examples,
            counts.label_tokens,
            counts.loss,
            *counts.tokens.values(),
            *counts.gradient_tokens.values(),
        ],
        dtype=torch.float64,
    )
    all_reduce_(numbers)
    examples, label_tokens, counts.loss, *tokens = numbers.tolist()
    counts.examples, counts.label_tokens = int(examples), int(label_tokens)
    counts.tokens = {name: int(number) for name, number in zip(names, tokens[: len(names)], strict=True)}
    counts.gradient_tokens = {name: int(number) for name, number in zip(names, tokens[len(names) :], strict=True)}
    for tap in taps.taps.values():
        for total in tap.totals.values():
            all_reduce_(total.sum)


def all_reduce_(tensor: Tensor) -> None:
    """Sum over processes, in place; NCCL takes no tensor on the CPU, so it goes over the GPU."""
    if dist.get_backend() == "nccl" and tensor.device.type == "cpu":
        moved = tensor.cuda()
        dist.all_reduce(moved)
        tensor.copy_(moved)
    else:
        dist.all_reduce(tensor)


def to_model(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The tensors on the model's device; images in its dtype."""
    parameter = next(iter(model.parameters()))
    return {
        key: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for key, value in inputs.items()
    }


def device_of(module: nn.Module) -> torch.device:
    """Where a layer's weight is."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that a layer computes in."""
    weight = getattr(module, "weight", None)
    return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else torch.float32
