"""Which sums are accumulated, where, and in which pass, so that a memory budget is never exceeded.

Every statistic of a layer has a source: an accumulator, its own or one that is shared (q, k and v see one input) or a moment
from which it follows at the end (a diagonal, FILet's energies). Without a budget the source is the one that costs fewest
multiplications. When the accumulators do not fit, FILet's moments give way to the streamed form (O(n)) first; what is still
too much is added up in host memory, and what does not fit there either waits for another pass over the data.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import ByteSize

from hubinit.calibration.clock import Work
from hubinit.errors import CalibrationError
from hubinit.numerics.statistics import Statistic


class Moment(StrEnum):
    """Sums that exist only during a pass, to derive FILet's energies from."""

    LINEAR_OUTPUT_MOMENT = "linear_output_moment"  # Σ_t (y_t − b)(y_t − b)ᵀ (m, m)
    INPUT_GRADIENT_MOMENT = "input_gradient_moment"  # Σ_t h_t h_tᵀ (n, n), h_t = Wᵀ g_t


Kind = Statistic | Moment
Place = Literal["device", "host"]
Key = tuple[str, Kind]  # (layer that owns the accumulator, what it sums)

_SQUARE_IN = (Statistic.INPUT_MOMENT, Moment.INPUT_GRADIENT_MOMENT)
_SQUARE_OUT = (Statistic.OUTPUT_MOMENT, Statistic.MEAN_OUTPUT_MOMENT, Moment.LINEAR_OUTPUT_MOMENT)
_DIAGONAL = {
    Statistic.OUTPUT_DIAGONAL: Statistic.OUTPUT_MOMENT,
    Statistic.MEAN_OUTPUT_DIAGONAL: Statistic.MEAN_OUTPUT_MOMENT,
}
MINIMUM_BLOCK = 64  # rows of a host accumulator computed at a time, at least


@dataclass(frozen=True)
class LayerShape:
    """One layer: its name, W's shape (m, n), and the first layer that sees the same input (itself when alone)."""

    name: str
    m: int
    n: int
    shares: str

    def of(self, kind: Kind) -> tuple[int, ...]:
        """Shape of an accumulator of this layer."""
        if kind in _SQUARE_IN:
            return (self.n, self.n)
        if kind in _SQUARE_OUT:
            return (self.m, self.m)
        if kind == Statistic.GRADIENT:
            return (self.m, self.n)
        if kind in (Statistic.OUTPUT_DIAGONAL, Statistic.MEAN_OUTPUT_DIAGONAL):
            return (self.m,)
        return (self.n,)


@dataclass(frozen=True)
class Accumulator:
    """One sum to be accumulated."""

    key: Key
    shape: tuple[int, ...]
    itemsize: int
    place: Place = "device"
    turn: int = 0  # which pass over the data

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class MemoryPlan:
    """Which sums are kept where.

    Attributes:
        sources: (layer, statistic) → the accumulator that gives it.
        accumulators: by key.
        budget: bytes on the device; None: no limit.
        scratch: bytes on the device that are left for intermediate results.
        works: accumulator → the parts of its seconds, see `works_of`.
    """

    sources: dict[tuple[str, Statistic], Key]
    accumulators: dict[Key, Accumulator]
    budget: int | None
    scratch: int
    works: dict[Key, dict[Work, float]]

    @property
    def passes(self) -> int:
        """Passes over the data."""
        return 1 + max((item.turn for item in self.accumulators.values()), default=0)

    def turn(self, index: int) -> dict[Key, Accumulator]:
        """The accumulators of one pass."""
        return {key: item for key, item in self.accumulators.items() if item.turn == index}

    def device_bytes(self, turn: int | None = None) -> int:
        """Accumulators on the device in one pass, or in the largest."""
        if turn is None:
            return max(self.device_bytes(index) for index in range(self.passes))
        return sum(item.size for item in self.turn(turn).values() if item.place == "device")

    @property
    def host_bytes(self) -> int:
        """Accumulators offloaded to host memory."""
        return sum(item.size for item in self.accumulators.values() if item.place == "host")

    def __str__(self) -> str:
        """A table: one row per kind of sum, with where it is kept, in which passes, and how much it takes."""
        rows: dict[tuple[str, str, int], list[int]] = {}
        for (_, kind), item in self.accumulators.items():
            rows.setdefault((str(kind), item.place, item.turn), []).append(item.size)
        lines = [f"{'sum':<24}{'place':<8}{'pass':>5}{'layers':>8}{'bytes':>12}"]
        for (label, place, turn), sizes in rows.items():
            lines.append(f"{label:<24}{place:<8}{turn + 1:>5}{len(sizes):>8}{in_units(sum(sizes)):>12}")
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """The plan in one line."""
        budget = "no limit" if self.budget is None else in_units(self.budget)
        return (
            f"{self.passes} pass{'es' if self.passes > 1 else ''}; on the device at most {in_units(self.device_bytes())} "
            f"+ {in_units(self.scratch if self.budget is not None else 0)} scratch of {budget}; host {in_units(self.host_bytes)}"
        )


def in_units(size: int) -> str:
    """Bytes with a binary unit: `1.5 GiB`."""
    return ByteSize(size).human_readable(separator=" ")


def plan_memory(
    layers: Iterable[LayerShape],
    statistics: Iterable[Statistic],
    budget: int | None = None,
    *,
    host_budget: int = 0,
    itemsize: int = 4,
) -> MemoryPlan:
    """Chooses the accumulators of a calibration.

    Args:
        layers: the target layers.
        statistics: what the methods need.
        budget: bytes for accumulators and scratch on the device; None: no limit, one pass.
        host_budget: bytes of host memory for offloaded accumulators (0 when the model itself is on the host).
        itemsize: 4 for float32 sums, 8 for float64.

    Raises:
        CalibrationError: even one accumulator at a time does not fit; the message says what would.
    """
    shapes = {layer.name: layer for layer in layers}
    wanted = frozenset(statistics)
    streamed: set[str] = set()
    sources = _sources(shapes, wanted, streamed)
    if budget is not None:
        # The moments that only FILet asks for are the first to go, the largest layers first.
        for name in sorted(shapes, key=lambda name: -shapes[name].m * shapes[name].n):
            if _total(shapes, sources, itemsize) <= budget:
                break
            streamed.add(name)
            sources = _sources(shapes, wanted, streamed)
    items = [Accumulator(key, shapes[key[0]].of(key[1]), itemsize) for key in dict.fromkeys(sources.values())]
    works = works_of(shapes, wanted, sources)
    if budget is None:
        return MemoryPlan(sources, {item.key: item for item in items}, None, 1 << 62, works)
    return _place(sources, items, budget, host_budget, works)


def works_of(
    shapes: Mapping[str, LayerShape], wanted: frozenset[Statistic], sources: Mapping[tuple[str, Statistic], Key]
) -> dict[Key, dict[Work, float]]:
    """Who needs each accumulator, so that its seconds can be told apart by statistic.

    An accumulator is needed by what it was chosen for. A statistic that only makes use of one that is there anyway (FILet's
    energies of `down_proj` from the large moment that CorDA asks for) would alone keep a smaller one: it needs a part of the
    seconds in proportion to the size, and nothing beside the statistic whose accumulator it uses.

    Returns:
        accumulator → work → its part of the seconds; the work that was really done has 1.
    """
    alone = {use: key for kind in wanted for use, key in _sources(shapes, frozenset({kind}), set()).items()}
    uses_of: dict[Key, list[tuple[str, Statistic]]] = {}
    for use, key in sources.items():
        uses_of.setdefault(key, []).append(use)
    works: dict[Key, dict[Work, float]] = {}
    for key, uses in uses_of.items():
        name, kind = key
        guests = [use for use in uses if kind in wanted and use[1] != kind and alone[use] != key]
        parts = {Work(frozenset(use[1] for use in uses if use not in guests)): 1.0}
        for use in guests:
            owner, smaller = alone[use]
            work = Work(frozenset({use[1]}), spared_by=Statistic(kind))
            share = math.prod(shapes[owner].of(smaller)) / math.prod(shapes[name].of(kind))
            parts[work] = parts.get(work, 0.0) + share
        works[key] = parts
    return works


def _sources(
    shapes: Mapping[str, LayerShape], wanted: frozenset[Statistic], streamed: set[str]
) -> dict[tuple[str, Statistic], Key]:
    """The accumulator behind every statistic of every layer."""
    # An input moment that a group of layers keeps anyway gives FILet's input energies of all of them.
    moments = {layer.shares for layer in shapes.values() if Statistic.INPUT_MOMENT in wanted}
    if Statistic.FISHER_INPUT in wanted:
        moments |= {s.shares for s in shapes.values() if s.n <= s.m and s.name not in streamed}
    sources: dict[tuple[str, Statistic], Key] = {}
    for name, shape in shapes.items():
        free = name not in streamed
        for statistic in sorted(wanted):
            key: Key = (name, statistic)
            if statistic in (Statistic.INPUT_MOMENT, Statistic.INPUT_SUM):
                key = (shape.shares, statistic)
            elif statistic in _DIAGONAL and _DIAGONAL[statistic] in wanted:
                key = (name, _DIAGONAL[statistic])
            elif statistic == Statistic.FISHER_INPUT and shape.shares in moments:
                key = (shape.shares, Statistic.INPUT_MOMENT)
            elif statistic == Statistic.FISHER_INPUT and free:
                key = (name, Moment.LINEAR_OUTPUT_MOMENT)
            elif statistic == Statistic.FISHER_OUTPUT and (
                Statistic.OUTPUT_MOMENT in wanted or (free and shape.m < shape.n)
            ):
                key = (name, Statistic.OUTPUT_MOMENT)
            elif statistic == Statistic.FISHER_OUTPUT and free:
                key = (name, Moment.INPUT_GRADIENT_MOMENT)
            sources[name, statistic] = key
    return sources


def _total(shapes: Mapping[str, LayerShape], sources: Mapping[tuple[str, Statistic], Key], itemsize: int) -> int:
    return sum(math.prod(shapes[name].of(kind)) for name, kind in set(sources.values())) * itemsize


def _place(
    sources: dict[tuple[str, Statistic], Key],
    items: list[Accumulator],
    budget: int,
    host_budget: int,
    works: dict[Key, dict[Work, float]],
) -> MemoryPlan:
    """Vectors and what fits stay on the device; matrices go to the host while it has room, then to later passes."""
    vectors = [item for item in items if len(item.shape) == 1]
    matrices = sorted((item for item in items if len(item.shape) == 2), key=lambda item: -item.size)
    fixed = sum(item.size for item in vectors)
    if fixed > budget:
        raise CalibrationError(
            f"the smallest sums take {in_units(fixed)}, more than the memory budget of {in_units(budget)}: raise memory_budget."
        )
    if fixed + sum(item.size for item in matrices) <= budget:
        placed = vectors + matrices
        scratch = budget - sum(item.size for item in placed)
        return MemoryPlan(sources, {item.key: item for item in placed}, budget, scratch, works)
    # Offloaded sums are computed on the device in blocks of rows: keep a quarter for them, but no more than the largest.
    scratch = min(matrices[0].size, (budget - fixed) // 4) if host_budget else 0
    room = [budget - fixed - scratch]  # left on the device, by pass
    host_room = host_budget
    placed = [*vectors]
    for item in matrices:
        block = min(item.shape[0], MINIMUM_BLOCK) * item.shape[1] * item.itemsize
        if item.size <= room[0]:
            room[0] -= item.size
            placed.append(item)
        elif item.size <= host_room and block <= scratch:
            host_room -= item.size
            placed.append(Accumulator(item.key, item.shape, item.itemsize, "host"))
        else:
            turn = next((t for t in range(1, len(room)) if item.size <= room[t]), len(room))
            if turn == len(room):
                room.append(budget)  # the vectors are finished by then
            if item.size > room[turn]:
                name, kind = item.key
                raise CalibrationError(
                    f"{kind} of {name} alone takes {in_units(item.size)}, more than the memory budget of {in_units(budget)}: "
                    f"raise memory_budget to {in_units(item.size + fixed)}, or leave that layer out of target_modules."
                )
            room[turn] -= item.size
            placed.append(Accumulator(item.key, item.shape, item.itemsize, "device", turn))
    # Streaming may use what is left on the device in every pass.
    return MemoryPlan(sources, {item.key: item for item in placed}, budget, scratch + min(room), works)
