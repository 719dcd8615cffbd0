"""Runs, events and times in the words of people: the same in the table, in the logs and in `hubinit status`."""

from hubinit.runs.job import Busy, Died, Event, Finished, Loading, Started
from hubinit.specs import DEFAULT_OPTIMISER, RunSpec


def cells_of(spec: RunSpec, group: str) -> list[str]:
    """Model, method, training data, learning rate and seed of a run, as table cells; an optimiser is named beside the method.

    Args:
        spec: the run.
        group: the task or suite that it trains on.
    """
    trained = spec.method.name != "none" or spec.recipe is not None  # a linear probe is `none`, trained
    optimiser = spec.recipe.optimiser_label if spec.recipe is not None else DEFAULT_OPTIMISER
    return [
        spec.model.id.split("/")[-1],
        spec.method.name
        + (f" r{spec.rank}" if spec.rank else "")
        + (f" {optimiser}" if optimiser != DEFAULT_OPTIMISER else ""),
        group if trained else "-",
        f"{spec.learning_rate:g}" if trained else "-",
        f"seed {spec.seed}" if trained else "-",
    ]


def group_of(spec: RunSpec) -> str:
    """What a run trains on, where nobody remembers the name of the suite."""
    return ", ".join(spec.data.tasks) if spec.data is not None else "-"


def describe(event: Event) -> str:
    """One event in a few words."""
    if isinstance(event, Started):
        return f"begins on {event.place}"
    if isinstance(event, Loading):
        return f"loading {event.model}"
    if isinstance(event, Finished):
        return event.status + (f": {event.reason}" if event.reason else "")
    if isinstance(event, Died):
        return event.reason
    if isinstance(event, Busy):
        return f"waiting: {event.holder} does it"
    return at_stage(event.stage, event.step, event.steps, event.loss, event.task)


def at_stage(stage: str, step: int, steps: int, loss: float | None, task: str | None) -> str:
    """How far a stage is, such as `train 30/100 loss 1.234`."""
    words = stage
    if steps:
        words += f" {step}/{steps}"
    if loss is not None:
        words += f" loss {loss:.3f}"
    return words + (f" {task}" if task else "")


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """Seconds as `0:05`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
