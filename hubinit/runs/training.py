"""The training stage of a run, the same for adapters and for all weights."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubinit import methods, tasks
from hubinit.data.encode import Example, ImageExample, batches
from hubinit.errors import first_line
from hubinit.models.base import Loaded, draw_head
from hubinit.models.kinds import head_seed
from hubinit.records import ResultStore
from hubinit.runs.costs import Stopwatch
from hubinit.runs.job import Job, Progress
from hubinit.runs.tracking import run_name, tracked
from hubinit.specs import NO_ADAPTER, RunSpec
from hubinit.training.phases import Allocation, Warmup
from hubinit.training.ranks import join_ranks
from hubinit.training.trainer import TrainOutcome, remove_checkpoints, total_steps, train


class TrainingMemoryError(Exception):
    """Training ran out of memory; the message says where."""


OnProgress = Callable[[Progress], None]
Pool = Sequence[Example] | Sequence[ImageExample]


def set_head(spec: RunSpec, loaded: Loaded) -> None:
    """Gives the base of a labelled kind the head that every method begins with at this seed, whatever ran on it before."""
    if (seed := head_seed(spec)) is not None:
        draw_head(loaded.model, seed)


def read_data(job: Job, loaded: Loaded, report: OnProgress) -> tuple[Pool, Pool]:
    """The training and validation examples of a run, whose base gets the head for them."""
    assert job.spec.data is not None
    report(Progress(key=job.spec.key, stage="read data"))
    set_head(job.spec, loaded)
    return tasks.training_examples(job.spec.data, job.spec.seed_of("data"))


def gate_batch(pool: Sequence[Any], loaded: Loaded) -> dict[str, Tensor]:
    """The first four examples, cut to 64 tokens, on the model's device: what the gates look at, which is not a loss."""
    (batch,) = batches(pool[:4], loaded.processor, batch_size=4, max_length=64)
    del batch["labels"]
    return {name: tensor.to(loaded.device) for name, tensor in batch.items()}


def run_training(
    job: Job,
    loaded: Loaded,
    model: Any,
    data: tuple[Pool, Pool],
    folder: Path,
    watch: Stopwatch,
    report: OnProgress,
    **acting: Any,
) -> TrainOutcome:
    """Trains what of a model may be trained, as the run's recipe says; a forced run starts over.

    Args:
        job: the run.
        loaded: its base.
        model: the base, or the base with its adapter.
        data: training and validation examples.
        folder: of the run.
        watch: is charged the seconds, those of an attempt that was cut off included.
        report: called as the work goes on.
        acting: further arguments of `train`.

    Raises:
        DivergedError: the loss or a gradient is not finite.
        TrainingMemoryError: memory ran out; a run with fewer examples per forward pass goes on from the last checkpoint.
    """
    spec = job.spec
    assert spec.recipe is not None
    if job.force and job.rank == 0:
        ResultStore(job.store).forget(spec.key)  # its scores belong to the weights that are replaced now
        remove_checkpoints(folder / "checkpoints")  # of an attempt that was cut off: start over, don't go on
    report(Progress(key=spec.key, stage="train"))

    def on_log(step: int, steps: int, loss: float) -> None:
        report(Progress(key=spec.key, stage="train", step=step, steps=steps, loss=loss))

    name = run_name(spec)
    with (
        watch.stage("train"),
        tracked(job.report_to if job.rank == 0 else (), name, job.store),
        join_ranks(job.rank, job.processes, job.port, loaded.device),
    ):
        try:
            outcome = train(
                model,
                loaded.processor,
                data[0],
                spec.recipe,
                learning_rate=spec.learning_rate,
                seed=spec.seed_of("data"),
                dropout_seed=spec.seed_of("dropout"),
                validation=data[1] if job.rank == 0 else (),
                output_dir=folder / "checkpoints",
                sharded=job.fsdp,
                on_log=on_log,
                report_to=job.report_to if job.rank == 0 else (),
                run_name=name,
                **acting,
            )
        except torch.OutOfMemoryError as error:
            raise TrainingMemoryError(first_line(error)) from None
    watch.charge("train", outcome.seconds)
    if outcome.cut:
        print(cut_note(spec, outcome.cut))  # into the run's log
    return outcome


def cut_note(spec: RunSpec, cut: int) -> str:
    """What to know about training examples that were too long."""
    assert spec.recipe is not None and spec.data is not None
    return (
        f"{', '.join(spec.data.tasks)}: {cut} training examples have more than {spec.recipe.max_length} tokens with "
        f"{spec.model.id} and lost some; raise recipe.max_length."
    )


def shrink(job: Job) -> Job | None:
    """The job with at most half the examples per forward pass and the same optimiser steps; None: it has one already.

    It goes on from the checkpoints of the first attempt, if there are any. The number is not part of a run's key.
    """
    recipe = job.spec.recipe
    assert recipe is not None
    half = min(recipe.micro_batch_size, recipe.batch_size) // 2
    fitting = [size for size in range(1, half + 1) if recipe.batch_size % size == 0]
    if not fitting:
        return None
    smaller = recipe.model_copy(update={"micro_batch_size": fitting[-1]})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"recipe": smaller}), "force": False})


def during_training(spec: RunSpec, model: Any, examples: int) -> dict[str, Any]:
    """The arguments of `train` for what a method does while it trains, besides its start."""
    assert spec.recipe is not None
    if spec.method.name in NO_ADAPTER:
        return {}
    method = methods.get(spec.method.name)
    options: Any = methods.parse_options(method, spec.method.options)
    found: dict[str, Any] = {}
    if method.penalty is not None:
        found["penalty"] = partial(method.penalty, model, options)
    if method.directions is not None:
        steps = min(options.warmup, max(1, total_steps(spec.recipe, examples) // 2))
        found["callbacks"] = [Warmup(model, steps, options.directions, partial(method.directions, options=options))]
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        found["callbacks"] = [Allocation(model)]
    return found
