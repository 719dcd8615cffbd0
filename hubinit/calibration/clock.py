"""What each part of a calibration took, so that a method can be charged with what it needs, whoever shared the pass."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from hubinit.numerics.statistics import OF_GRADIENTS, Statistic


@dataclass(frozen=True)
class Work:
    """A part of a calibration, and who needs it.

    Attributes:
        needed_by: the statistics that cannot be had without it.
        spared_by: a statistic beside which it is not needed, since the sum of that one serves as well.
    """

    needed_by: frozenset[Statistic]
    spared_by: Statistic | None = None

    def needed_for(self, statistics: frozenset[Statistic]) -> bool:
        """Whether a calibration for exactly these statistics would do it."""
        return not self.needed_by.isdisjoint(statistics) and self.spared_by not in statistics


Label = Work | tuple[str, str]  # a part of a pass by who needs it, or a sum by its key
FORWARD_PASS = Work(frozenset(Statistic))
BACKWARD_PASS = Work(OF_GRADIENTS)
GRADIENT_PASS = Work(frozenset({Statistic.GRADIENT}))  # with sampled labels there are two backward passes
SAMPLED_PASS = Work(OF_GRADIENTS - {Statistic.GRADIENT})
PASSES = (FORWARD_PASS, BACKWARD_PASS, GRADIENT_PASS, SAMPLED_PASS)


@dataclass
class Clock:
    """Adds up the seconds of labelled parts. On a GPU, events are recorded and read later, so that nothing waits."""

    seconds: dict[Label, float] = field(default_factory=dict)
    _events: list[tuple[Label, Label | None, Any, Any]] = field(default_factory=list)

    def start(self, device: torch.device) -> Any:
        """Begins a part; give what is returned to `stop`."""
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def stop(self, label: Label, begun: Any, device: torch.device, inside: Label | None = None) -> None:
        """Ends a part: what it took is added to its label, and taken from that of the part which it happened in."""
        if device.type != "cuda":
            self._add(label, inside, time.perf_counter() - begun)
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        self._events.append((label, inside, begun, event))

    @contextmanager
    def measure(self, label: Label, device: torch.device, inside: Label | None = None) -> Iterator[None]:
        """Measures the block, see `stop`."""
        begun = self.start(device)
        yield
        self.stop(label, begun, device, inside)

    def settle(self) -> None:
        """Reads the events; cheap where the device has caught up anyway."""
        for label, inside, begun, ended in self._events:
            ended.synchronize()
            self._add(label, inside, begun.elapsed_time(ended) / 1000)
        self._events.clear()

    def _add(self, label: Label, inside: Label | None, seconds: float) -> None:
        self.seconds[label] = self.seconds.get(label, 0.0) + seconds
        if inside is not None:
            self.seconds[inside] = self.seconds.get(inside, 0.0) - seconds


def add_up(a: Mapping[Work, float], b: Mapping[Work, float]) -> dict[Work, float]:
    """The seconds of two passes over different data, or of two turns over the same."""
    return {work: a.get(work, 0.0) + b.get(work, 0.0) for work in {**a, **b}}
