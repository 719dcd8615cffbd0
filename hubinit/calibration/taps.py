"""Hooks on the target layers that add each batch to the accumulators of one pass.

The input is tapped before the layer, so that its own gradient `h = Wᵀg` can be had apart from that of the layers that share the
input; the output gradient `g` arrives at a hook on the output. Weights are frozen and gradients start at the first target
layers, so only activation gradients are propagated. `Σ ĝ xᵀ` is formed in the hook: no `.grad` buffer ever exists.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hubinit.calibration.clock import Clock, Work
from hubinit.calibration.fisher_energy import stream_input, stream_output
from hubinit.calibration.memory import Accumulator, Key, Kind, MemoryPlan, Moment
from hubinit.calibration.rows import Rows, Side
from hubinit.errors import CalibrationError
from hubinit.models.layers import bias_of, is_conv1d, is_quantised, weight_of
from hubinit.numerics.products import add_gram_, add_product_, mirror, sum_dtype, sum_of_squares
from hubinit.numerics.statistics import Statistic

# What each sum is made from; x and y come with the forward pass, g and h with the backward pass.
FROM_INPUT: frozenset[Kind] = frozenset({Statistic.INPUT_SUM, Statistic.INPUT_MOMENT})
FROM_OUTPUT: frozenset[Kind] = frozenset({Moment.LINEAR_OUTPUT_MOMENT, Statistic.FISHER_INPUT})
FROM_OUTPUT_GRADIENT: frozenset[Kind] = frozenset(
    {
        Statistic.OUTPUT_MOMENT,
        Statistic.OUTPUT_DIAGONAL,
        Statistic.MEAN_OUTPUT_MOMENT,
        Statistic.MEAN_OUTPUT_DIAGONAL,
        Statistic.GRADIENT,
    }
)
FROM_INPUT_GRADIENT: frozenset[Kind] = frozenset({Moment.INPUT_GRADIENT_MOMENT, Statistic.FISHER_OUTPUT})
FORWARD = FROM_INPUT | FROM_OUTPUT
BACKWARD = FROM_OUTPUT_GRADIENT | FROM_INPUT_GRADIENT


class Total:
    """A running sum in its planned place. On the host it is computed on the device in blocks of rows and added there."""

    def __init__(self, plan: Accumulator, device: torch.device, dtype: torch.dtype, scratch: int) -> None:
        self.place = torch.device("cpu") if plan.place == "host" else device
        self.sum = torch.zeros(plan.shape, dtype=dtype, device=self.place)
        self.offloaded = plan.place == "host" and device.type != "cpu"
        self.symmetric = False
        row = plan.shape[-1] * plan.itemsize
        self.block = max(1, min(plan.shape[0], scratch // row)) if self.offloaded else plan.shape[0]

    def add_gram(self, a: Tensor) -> None:
        """Adds aᵀ a for a: (T, p); only the upper triangle is kept up to date until `finish`."""
        self.symmetric = True
        if self.offloaded:
            self.add_product(a, a)
        else:
            add_gram_(self.sum, a)

    def finish(self) -> Tensor:
        """The sum, whole."""
        return mirror(self.sum) if self.symmetric and not self.offloaded else self.sum

    def add_product(self, a: Tensor, b: Tensor) -> None:
        """Adds aᵀ b for a: (T, p), b: (T, q)."""
        if not self.offloaded:
            add_product_(self.sum, a, b)
            return
        for start in range(0, a.shape[1], self.block):
            columns = a[:, start : start + self.block]  # (T, block)
            part = torch.zeros(columns.shape[1], b.shape[1], dtype=self.sum.dtype, device=a.device)
            add_product_(part, columns, b)
            self.sum[start : start + self.block] += part.to(self.place)

    def add(self, vector: Tensor) -> None:
        """Adds a vector (p,)."""
        self.sum += vector.to(self.sum)

    def probe(self) -> Tensor:
        """() a number that is finite only if nothing that was added held NaN or infinity.

        Such a value in a row of activations spoils a whole row or column of a product, so a row and a column show it.
        """
        if self.sum.ndim == 1:
            return self.sum.sum()
        if self.sum.shape[0] == self.sum.shape[1]:
            return self.sum.diagonal().sum()
        return self.sum[0].sum() + self.sum[:, 0].sum()


def mean_gradient(g: Tensor, weights: Tensor) -> Tensor:
    """ĝ = g / L_i (T, m) for g: (T, m) and weights 1 / L_i (T,).

    bfloat16 stays bfloat16, which has the range for it and products that are fast and exact; float16 would underflow.
    """
    mean = g * weights[:, None]  # (T, m) in the dtype of the sums
    return mean.to(g.dtype) if g.dtype == torch.bfloat16 else mean


@dataclass
class Tap:
    """One target layer in one pass."""

    name: str
    module: nn.Module
    totals: dict[Kind, Total]
    leader: str
    tokens: int = 0  # that sums of inputs count
    gradient_tokens: int = 0  # that sums of gradients count

    @property
    def weight(self) -> Tensor:
        """(m, n) in the model's dtype where it can be read so, without a copy."""
        if is_quantised(self.module):
            return weight_of(self.module, self.name)
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().T if is_conv1d(self.module) else weight.detach()


@dataclass
class Taps:
    """All target layers in one pass; `batch` must be set before each forward pass.

    Attributes:
        active: which backward sums the current backward pass adds to (the sampled Fisher makes two).
        clock: what each sum took, by its key.
        around: the backward pass under way, which their seconds are not part of.
        recomputing: set during the backward pass, when gradient checkpointing runs layers again.
    """

    taps: dict[str, Tap]
    scratch: int
    backward: bool
    clock: Clock
    batch: Rows | None = None
    active: frozenset[Kind] = frozenset()
    around: Work | None = None
    recomputing: bool = False
    _inputs: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    _followers: dict[str, int] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Taps":
        for tap in self.taps.values():
            if tap.leader != tap.name:
                self._followers[tap.leader] = self._followers.get(tap.leader, 0) + 1
            self._handles.append(tap.module.register_forward_pre_hook(partial(self._before, tap)))
            self._handles.append(tap.module.register_forward_hook(partial(self._after, tap)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()

    def _before(self, tap: Tap, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Checks that a shared input is still shared, and taps the gradient of this layer's own input."""
        x = args[0]
        if not self.recomputing:
            self._check_shared(tap, x)
        if not (self.backward and torch.is_grad_enabled()):
            return None
        wants_h = not FROM_INPUT_GRADIENT.isdisjoint(tap.totals)
        if x.requires_grad and not wants_h:
            return None
        own = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()  # gradients start here
        if wants_h and not self.recomputing:
            own.register_hook(partial(self._input_gradient, tap))
        return (own, *args[1:])

    def _check_shared(self, tap: Tap, x: Tensor) -> None:
        if tap.name in self._followers:
            self._inputs[tap.name] = (x, self._followers[tap.name])  # held until the last follower has seen it
        elif tap.leader != tap.name:
            shared, left = self._inputs.pop(tap.leader, (None, 0))
            if shared is None or shared.data_ptr() != x.data_ptr() or shared.numel() != x.numel():
                raise CalibrationError(
                    f"{tap.name} shared its input with {tap.leader} in the first batch and not in this one: "
                    "calibrate these layers apart (target_modules)."
                )
            if left > 1:
                self._inputs[tap.leader] = (shared, left - 1)

    def _after(self, tap: Tap, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.recomputing:
            return
        assert self.batch is not None
        x = args[0].detach()
        rows = x.numel() // x.shape[-1]
        tap.tokens += self.batch.count(rows, x.device, Side.INPUT)
        tap.gradient_tokens += self.batch.count(rows, x.device, Side.GRADIENT)
        with torch.no_grad():
            self._add_forward(tap, x, output.detach())
        if self.backward and output.requires_grad and not FROM_OUTPUT_GRADIENT.isdisjoint(tap.totals):
            kept = x if Statistic.GRADIENT in tap.totals else None
            output.register_hook(partial(self._output_gradient, tap, kept))

    def _add_forward(self, tap: Tap, x: Tensor, y: Tensor) -> None:
        """Adds what depends on the input and the output only."""
        assert self.batch is not None
        kinds = FORWARD & tap.totals.keys()
        if not kinds:
            return
        bias = bias_of(tap.module)
        x = self.batch.select(x, Side.INPUT)  # (T, n)
        y = self.batch.select(y, Side.INPUT) if kinds & FROM_OUTPUT else y  # (T, m)
        for kind in kinds:
            total = tap.totals[kind]
            with self.clock.measure((tap.name, kind), x.device):
                match kind:
                    case Statistic.INPUT_SUM:
                        total.add(x.sum(0, dtype=sum_dtype(x.dtype)))
                    case Statistic.INPUT_MOMENT:
                        total.add_gram(x)
                    case Moment.LINEAR_OUTPUT_MOMENT:
                        total.add_gram(y if bias is None else y - bias)
                    case Statistic.FISHER_INPUT:
                        total.add(stream_input(tap.weight, x, y, bias, self.scratch))

    @torch.no_grad()
    def _input_gradient(self, tap: Tap, gradient: Tensor) -> None:
        """Adds what depends on h, the gradient of this layer's own input."""
        assert self.batch is not None
        for kind in FROM_INPUT_GRADIENT & tap.totals.keys() & self.active:
            with self.clock.measure((tap.name, kind), gradient.device, self.around):
                h = self.batch.select(gradient, Side.GRADIENT)  # (T, n)
                if kind == Moment.INPUT_GRADIENT_MOMENT:
                    tap.totals[kind].add_gram(h)
                else:
                    tap.totals[kind].add(stream_output(tap.weight, h, self.scratch))

    @torch.no_grad()
    def _output_gradient(self, tap: Tap, x: Tensor | None, gradient: Tensor) -> None:
        """Adds what depends on g, the gradient of this layer's output, and on x."""
        assert self.batch is not None
        rows = gradient.numel() // gradient.shape[-1]
        for kind in FROM_OUTPUT_GRADIENT & tap.totals.keys() & self.active:
            total = tap.totals[kind]
            side = Side.ALL if kind == Statistic.GRADIENT else Side.GRADIENT
            with self.clock.measure((tap.name, kind), gradient.device, self.around):
                g = self.batch.select(gradient, side)  # (T, m)
                if kind == Statistic.OUTPUT_MOMENT:
                    total.add_gram(g)
                    continue
                if kind == Statistic.OUTPUT_DIAGONAL:
                    total.add(sum_of_squares(g))
                    continue
                weights = self.batch.weights(rows, g.device, sum_dtype(g.dtype), tap.name, side)  # (T,) 1 / L_i
                if kind == Statistic.MEAN_OUTPUT_DIAGONAL:
                    total.add(sum_of_squares(g, weights))
                elif kind == Statistic.MEAN_OUTPUT_MOMENT:
                    total.add_gram(mean_gradient(g, weights))
                else:
                    assert x is not None
                    total.add_product(mean_gradient(g, weights), self.batch.select(x, side))

    def first_not_finite(self) -> str | None:
        """The first layer, in the order of computation, whose sums are no longer finite; None when all are."""
        probes = list(self._probes())
        by_device: dict[torch.device, list[Tensor]] = {}
        for _, probe in probes:
            by_device.setdefault(probe.device, []).append(probe)
        if all(bool(torch.isfinite(torch.stack(values).sum())) for values in by_device.values()):  # one wait per device
            return None
        return next((name for name, probe in probes if not bool(torch.isfinite(probe))), None)

    def _probes(self) -> Iterator[tuple[str, Tensor]]:
        for tap in self.taps.values():
            for kind in tap.totals.keys() & FORWARD:
                yield tap.name, tap.totals[kind].probe()
        for tap in reversed(list(self.taps.values())):
            for kind in tap.totals.keys() & BACKWARD:
                yield tap.name, tap.totals[kind].probe()


def taps_of(
    layers: Mapping[str, nn.Module],
    leaders: Mapping[str, str],
    plan: MemoryPlan,
    turn: int,
    devices: Mapping[str, torch.device],
    dtype: torch.dtype,
) -> Taps:
    """The hooks of one pass of a plan."""
    accumulators: dict[Key, Accumulator] = plan.turn(turn)
    taps = {}
    for name, module in layers.items():
        totals = {
            kind: Total(item, devices[name], dtype, plan.scratch)
            for (owner, kind), item in accumulators.items()
            if owner == name
        }
        taps[name] = Tap(name, module, totals, leaders[name])
    backward = any(kind in BACKWARD for _, kind in accumulators)
    return Taps(taps, plan.scratch, backward, Clock())
