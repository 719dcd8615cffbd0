"""What is handed to an executor, and what it reports: a job is one run, events are what becomes of it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from hubinit.models.kinds import KINDS
from hubinit.specs import Engine, EvalSpec, RunSpec


class Message(BaseModel):
    """Base of what goes between processes, as one line of JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Job(Message):
    """One run, with the evaluations wanted of it.

    Attributes:
        store: folder of results, adapters, calibrations and logs.
        spec: the run.
        evaluations: what it is scored on.
        peers: the runs of the same sweep that calibrate on the same data, this one included: one pass serves them all.
        eval_batch_size: sequences per forward pass of the evaluation.
        engine: what answers the questions of free-text tasks.
        command: what the user ran, for the record.
        device: where it runs. None: the GPU when there is one.
        force: make it again even if it is finished.
        processes: how many train it together.
        rank: which of them this is for; the first, 0, does everything but their shares of training.
        port: of this machine, where they meet.
        fsdp: cut the base over them while they train, see `hubinit.training.sharding`.
        diagnostics: measure also what costs time, see `hubinit.runs.diagnosing`.
        report_to: trackers that follow the training, see `hubinit.runs.tracking`.
    """

    store: Path
    spec: RunSpec
    evaluations: tuple[EvalSpec, ...] = ()
    peers: tuple[RunSpec, ...] = ()
    eval_batch_size: int = 16
    engine: Engine = "transformers"
    command: str = ""
    device: str | None = None
    force: bool = False
    processes: int = 1
    rank: int = 0
    port: int = 0
    fsdp: bool = False
    diagnostics: bool = False
    report_to: tuple[str, ...] = ()


class Loading(Message):
    """The base of a run is being loaded."""

    type: Literal["loading"] = "loading"
    key: str
    model: str


class Progress(Message):
    """A stage of a run begins or goes on; `steps` is 0 where their number is not known."""

    type: Literal["progress"] = "progress"
    key: str
    stage: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    task: str | None = None


class Finished(Message):
    """A run has a stored result."""

    type: Literal["finished"] = "finished"
    key: str
    status: str
    reason: str | None = None


class Died(Message):
    """Whatever did the run is gone, and left no result."""

    type: Literal["died"] = "died"
    key: str
    reason: str
    loading: bool  # before the base was in memory, so that the next run of this base may fare no better


Event = Annotated[Loading | Progress | Finished | Died, Field(discriminator="type")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def in_memory(spec: RunSpec) -> tuple[str, str]:
    """Runs with the same value share a loaded base: one model and, where it has a head of its own, one set of classes."""
    labelled = KINDS[spec.model.kind].labelled and spec.data is not None
    return spec.model.key, spec.data.key if labelled and spec.data is not None else ""
