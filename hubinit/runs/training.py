"""The training stage of a run, the same for adapters and for all weights."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hubinit import methods, tasks
from hubinit.data.encode import Example, ImageExample, batches
from hubinit.models.base import Loaded, draw_head
from hubinit.models.kinds import head_seed
from hubinit.records import ResultStore
from hubinit.runs.costs import Stopwatch
from hubinit.runs.job import Job, Progress
from hubinit.specs import NO_ADAPTER, RunSpec
from hubinit.training.phases import Allocation, Warmup
from hubinit.training.trainer import TrainOutcome, remove_checkpoints, total_steps, train

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
    """
    spec = job.spec
    assert spec.recipe is not None
    if job.force:
        ResultStore(job.store).forget(spec.key)  # its scores belong to the weights that are replaced now
        remove_checkpoints(folder / "checkpoints")  # of an attempt that was cut off: start over, don't go on
    report(Progress(key=spec.key, stage="train"))

    def on_log(step: int, steps: int, loss: float) -> None:
        report(Progress(key=spec.key, stage="train", step=step, steps=steps, loss=loss))

    with watch.stage("train"):
        outcome = train(
            model,
            loaded.processor,
            data[0],
            spec.recipe,
            learning_rate=spec.learning_rate,
            seed=spec.seed_of("data"),
            dropout_seed=spec.seed_of("dropout"),
            validation=data[1],
            output_dir=folder / "checkpoints",
            on_log=on_log,
            **acting,
        )
    watch.charge("train", outcome.seconds)
    return outcome


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
