"""hubinit: compute, train, compare and publish LoRA initialisations on the Hugging Face Hub.

The Python API in short:

    import hubinit

    calibration = hubinit.calibrate(model, batches, methods=["filet"])
    peft_model = hubinit.initialize(model, "filet", rank=32, calibration=calibration)  # ready to train
    hubinit.save_initialized(peft_model, "my-init")  # before training
    hubinit.export(peft_model, "my-adapter")  # after training: exact plain LoRA on the untouched base
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubinit.adapters import detach, export, initialize, load_initialized, save_initialized
    from hubinit.calibration import Calibration, calibrate
    from hubinit.methods import METHODS

_HOMES = {
    "METHODS": "hubinit.methods",
    "Calibration": "hubinit.calibration",
    "calibrate": "hubinit.calibration",
    "detach": "hubinit.adapters",
    "export": "hubinit.adapters",
    "initialize": "hubinit.adapters",
    "load_initialized": "hubinit.adapters",
    "save_initialized": "hubinit.adapters",
}


def __getattr__(name: str) -> Any:
    """Imports the public functions on first use, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hubinit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


__all__ = [
    "METHODS",
    "Calibration",
    "calibrate",
    "detach",
    "export",
    "initialize",
    "load_initialized",
    "save_initialized",
]
