"""hubinit: compute, train, compare and publish LoRA initialisations on the Hugging Face Hub.

The Python API in short:

    import hubinit

    calibration = hubinit.calibrate(model, batches, methods=["filet"])
    peft_model = hubinit.initialize(model, "filet", rank=32, calibration=calibration)  # ready to train
    hubinit.save_initialized(peft_model, "my-init")  # before training
    hubinit.export(peft_model, "my-adapter")  # after training: exact plain LoRA on the untouched base
    hubinit.finish("trained", "my-init", "my-adapter")  # the same, from what another trainer saved

    peft_model = hubinit.load("org/base", "me/published-init")  # or start from an adapter on the Hub
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubinit.adapters import calibrate, detach, export, initialize, load_initialized, save_initialized
    from hubinit.calibration import Calibration
    from hubinit.hub.finish import finish
    from hubinit.hub.pull import load
    from hubinit.methods import METHODS

HOMES = {
    "METHODS": "hubinit.methods",
    "Calibration": "hubinit.calibration",
    "calibrate": "hubinit.adapters",
    "detach": "hubinit.adapters",
    "export": "hubinit.adapters",
    "finish": "hubinit.hub.finish",
    "initialize": "hubinit.adapters",
    "load": "hubinit.hub.pull",
    "load_initialized": "hubinit.adapters",
    "save_initialized": "hubinit.adapters",
}


def __getattr__(name: str) -> Any:
    """A public name, imported on first use (PEP 562), so that the command line starts without torch."""
    if name not in HOMES:
        raise AttributeError(f"module 'hubinit' has no attribute '{name}'")
    return getattr(import_module(HOMES[name]), name)


__all__ = [
    "METHODS",
    "Calibration",
    "calibrate",
    "detach",
    "export",
    "finish",
    "initialize",
    "load",
    "load_initialized",
    "save_initialized",
]
