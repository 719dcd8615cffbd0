"""One calibration shared by all methods that ask for the same data, whatever numbers of examples they ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubinit.calibration.cache import load_or_compute
from hubinit.calibration.engine import calibrate
from hubinit.calibration.memory import MemoryPlan
from hubinit.calibration.result import Calibration
from hubinit.data import encode
from hubinit.data.encode import Example, ImageExample, TokenExample
from hubinit.models.base import Loaded
from hubinit.numerics.statistics import Statistic
from hubinit.specs import CalibrationSpec

BATCH_SIZE = 8  # examples of a forward pass
Pool = Sequence[Example | TokenExample] | Sequence[ImageExample]


@dataclass(frozen=True)
class Need:
    """What one method asks of the calibration: so many examples, these sums."""

    samples: int
    statistics: frozenset[Statistic]


def calibrate_shared(
    loaded: Loaded,
    pool: Pool,
    settings: CalibrationSpec,
    needs: Sequence[Need],
    folder: Path,
    *,
    target_modules: str | Sequence[str] = "all-linear",
    head: int | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    on_plan: Callable[[MemoryPlan], None] = lambda plan: None,
) -> Calibration:
    """The statistics over the first `settings.samples` examples of the pool, from one pass that all needs share.

    Methods may ask for different numbers of examples (FILet 320, LoRA-DA 256). The examples are cut at those numbers and each
    segment is calibrated once, for the union of what the methods that reach it need; segments add up exactly (raw sums).

    Args:
        loaded: the base model.
        pool: calibration examples, in a fixed order; fewer than asked for are taken as they are.
        settings: of the calibration that is wanted now.
        needs: of every method that shares the data and all settings but `samples`, the one wanted now included.
        folder: where calibrations are kept.
        target_modules: which layers.
        head: seed of a fresh head, through which the gradients pass.
        on_batch: called with the batches done and the batches of the segment that is being computed.
        on_plan: called with the memory plan of each segment that has to be computed.
    """
    total: Calibration | None = None
    start = 0
    for end in segment_ends(needs, settings.samples, len(pool)):
        needed = frozenset[Statistic]().union(*(need.statistics for need in needs if need.samples >= end))
        segment = pool[start:end]
        key = {
            "model": loaded.spec.canonical_json(),
            "data": encode.data_hash(segment),
            "settings": settings.model_copy(update={"samples": end - start}).canonical_json(),
            "target_modules": target_modules,
            **({} if head is None else {"head": head}),
        }

        def compute(missing: frozenset[Statistic], segment: Pool = segment) -> Calibration:
            batches = encode.batches(segment, loaded.processor, batch_size=BATCH_SIZE, max_length=settings.max_length)
            return calibrate(
                loaded.model,
                batches,
                statistics=missing,
                target_modules=target_modules,
                fisher=settings.fisher,
                tokens=settings.tokens,
                memory_budget=settings.memory_budget,
                seed=settings.seed,
                on_plan=on_plan,
                on_batch=lambda done: on_batch(done, len(batches)),
            )

        part = load_or_compute(folder, key, needed, compute)
        total = part if total is None else total + part
        start = end
    assert total is not None
    return total


def segment_ends(needs: Sequence[Need], samples: int, available: int) -> list[int]:
    """Where the examples are cut: at every number of examples that a need asks for, up to `samples`."""
    last = min(samples, available)
    return sorted({end for need in needs if (end := min(need.samples, available)) <= last} | {last})
