"""The calibration pass: what data-aware initialisations need to know of a model on some data, in one forward and backward."""

from hubinit.calibration.cache import cached
from hubinit.calibration.engine import calibrate
from hubinit.calibration.plan import Plan, plan_memory
from hubinit.calibration.result import Calibration
from hubinit.calibration.statistics import LayerStatistics, Statistic

__all__ = ["Calibration", "LayerStatistics", "Plan", "Statistic", "cached", "calibrate", "plan_memory"]
