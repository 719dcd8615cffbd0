"""From methods to the statistics that they need, and to a calibration that has them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from torch import nn

from hubinit import methods as registry
from hubinit.calibration.engine import calibrate as calibrate_statistics
from hubinit.calibration.loss import Batch
from hubinit.calibration.memory import MemoryPlan
from hubinit.calibration.result import Calibration
from hubinit.calibration.shared import Need
from hubinit.errors import CalibrationError
from hubinit.numerics.statistics import Statistic
from hubinit.specs import CalibrationSpec, MethodSpec

MethodName = str | tuple[str, dict[str, Any]]


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    methods: Sequence[MethodName] = (),
    statistics: Iterable[Statistic] = (),
    target_modules: str | Sequence[str] = "all-linear",
    fisher: Literal["empirical", "sampled"] = "empirical",
    tokens: Literal["attended", "labels"] = "attended",
    memory_budget: int | None = None,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
    on_plan: Callable[[MemoryPlan], None] | None = None,
) -> Calibration:
    """Computes the statistics that the methods need, all in one pass over the data.

    Args:
        model: as for `hubinit.calibration.calibrate`, which has the details of this and of all that is not named here.
        batches: of the calibration data.
        methods: names of methods, or (name, options) where options change what a method needs.
        statistics: sums to accumulate besides those.
        target_modules: which layers.
        fisher: whose labels the output moments use.
        tokens: which tokens count.
        memory_budget: bytes for the sums.
        seed: of the sampled labels.
        on_batch: called with the number of batches done.
        on_plan: called with the memory plan.

    Raises:
        CalibrationError: the methods need no statistics, or the data cannot be used.
    """
    asked = (entry if isinstance(entry, tuple) else (entry, {}) for entry in methods)
    wanted = frozenset(statistics).union(*(statistics_of(name, options) for name, options in asked))
    if not wanted:
        raise CalibrationError(f"{', '.join(map(str, methods))}: nothing to calibrate, since no statistic is needed.")
    return calibrate_statistics(
        model,
        batches,
        statistics=wanted,
        target_modules=target_modules,
        fisher=fisher,
        tokens=tokens,
        memory_budget=memory_budget,
        seed=seed,
        on_batch=on_batch,
        on_plan=on_plan,
    )


def statistics_of(method: str, options: dict[str, Any]) -> frozenset[Statistic]:
    """What a method with these options needs; nothing for one that looks at weights only."""
    registered = registry.get(method)
    return registered.statistics(registry.parse_options(registered, options))


def need_of(method: MethodSpec, calibration: CalibrationSpec) -> Need:
    """What a run's method asks of the calibration."""
    return Need(calibration.samples, statistics_of(method.name, method.options))
