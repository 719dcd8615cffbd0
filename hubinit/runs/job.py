"""What is handed to a worker process: the runs of one base model."""

from pathlib import Path

from pydantic import BaseModel

from hubinit.specs import EvalSpec, ModelSpec, RunSpec


class Assignment(BaseModel):
    """One run and the evaluations that are wanted of it."""

    spec: RunSpec
    evaluations: tuple[EvalSpec, ...]


class Job(BaseModel):
    """All runs of one base model, in the order they are done."""

    store: Path
    model: ModelSpec
    assignments: tuple[Assignment, ...]
    eval_batch_size: int = 16
    command: str = ""
    device: str | None = None
    force: bool = False
