"""Attach initial factors to a model as a PEFT adapter, keep the base untouched, save, export and reload exactly."""

from hubinit.adapters.attach import initialize
from hubinit.adapters.base import detach, untouched_base
from hubinit.adapters.calibrating import calibrate
from hubinit.adapters.probe import attach_head
from hubinit.adapters.reload import load_initialized
from hubinit.adapters.report import InitReport, ModuleReport
from hubinit.adapters.saving import SavedAdapter, export, head_size, save_initialized

__all__ = [
    "InitReport",
    "ModuleReport",
    "SavedAdapter",
    "attach_head",
    "calibrate",
    "detach",
    "export",
    "head_size",
    "initialize",
    "load_initialized",
    "save_initialized",
    "untouched_base",
]
