"""The calibration pass: what data-aware initialisations need to know of a model on some data, in one forward and backward."""

from typing import TYPE_CHECKING

from hubinit.lazy import importer
from hubinit.numerics.statistics import LayerStatistics, Statistic

if TYPE_CHECKING:
    from hubinit.calibration.cache import load_or_compute
    from hubinit.calibration.engine import calibrate
    from hubinit.calibration.memory import MemoryPlan, plan_memory
    from hubinit.calibration.result import Calibration

# The methods need the names of the statistics only; the engine needs peft and transformers.
__getattr__ = importer(
    __name__,
    {
        "Calibration": "hubinit.calibration.result",
        "MemoryPlan": "hubinit.calibration.memory",
        "load_or_compute": "hubinit.calibration.cache",
        "calibrate": "hubinit.calibration.engine",
        "plan_memory": "hubinit.calibration.memory",
    },
)

__all__ = ["Calibration", "LayerStatistics", "MemoryPlan", "Statistic", "calibrate", "load_or_compute", "plan_memory"]
