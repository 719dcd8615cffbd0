"""The calibration pass: what data-aware initialisations need to know of a model on some data, in one forward and backward."""

from hubinit.calibration.cache import load_or_compute
from hubinit.calibration.engine import calibrate
from hubinit.calibration.memory import MemoryPlan, plan_memory
from hubinit.calibration.result import Calibration
from hubinit.numerics.statistics import LayerStatistics, Statistic

__all__ = ["Calibration", "LayerStatistics", "MemoryPlan", "Statistic", "calibrate", "load_or_compute", "plan_memory"]
