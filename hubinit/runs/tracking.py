"""Trackers that follow a training through the Trainer's own callbacks: trackio, Weights & Biases, TensorBoard.

They see what the Trainer logs and its arguments; they are part of no key. Where they write, and under which account, is theirs to
say, through their own environment variables (WANDB_MODE=offline, TRACKIO_DIR, …). Only what they leave open is set here.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hubinit.errors import HubinitError
from hubinit.specs import RunSpec

TRACKERS = ("trackio", "wandb", "tensorboard")
PROJECT = "hubinit"
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # read by the Trainer's callback when a training begins


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that are unknown, not installed, or that would ask for a login.

    Raises:
        HubinitError: there is one; the message says what to do.
    """
    for name in names:
        if name not in TRACKERS:
            raise HubinitError(f"--report-to takes {', '.join(TRACKERS)}, not '{name}'.")
        if find_spec(name) is None:
            raise HubinitError(f"--report-to {name} needs a library: pip install {name}")
    if "wandb" in names and os.environ.get("WANDB_MODE", "online") == "online" and not _logged_in():
        raise HubinitError(
            "--report-to wandb finds no login: run `wandb login`, or set WANDB_MODE=offline to keep the runs here."
        )


def _logged_in() -> bool:
    """Whether Weights & Biases has a key, which it looks for itself."""
    return bool(import_module("wandb").api.api_key)


def run_name(spec: RunSpec) -> str:
    """`model/method/key`, as a run is called in every tracker."""
    return f"{spec.model.id.rstrip('/').rsplit('/', 1)[-1]}/{spec.method.name}/{spec.key}"


@contextmanager
def tracked(names: Sequence[str], name: str, store: Path) -> Iterator[None]:
    """Lets trackers record one training as a run of its own, however the training ends.

    Args:
        names: trackers that are installed.
        name: of the run.
        store: folder of results; TensorBoard writes to `tensorboard/NAME` in it, unless its own variable names another folder.
    """
    root = Path(os.environ.get(TENSORBOARD) or store / "tensorboard")
    own = {TENSORBOARD: str(root / name), "WANDB_PROJECT": os.environ.get("WANDB_PROJECT", PROJECT)}
    before = {variable: os.environ.get(variable) for variable in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable)
            else:
                os.environ[variable] = value
        if "wandb" in names and (wandb := import_module("wandb")).run is not None:
            wandb.finish()  # the Trainer leaves it open, and the next run would go on in it
        if "trackio" in names:
            _finish_trackio()


def _finish_trackio() -> None:
    """Ends trackio's run where the Trainer could not, after a training that diverged."""
    trackio = import_module("trackio")
    if trackio.context_vars.current_run.get() is not None:
        trackio.finish()
