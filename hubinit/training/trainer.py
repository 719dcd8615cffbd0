"""Fine-tuning with transformers' Trainer: loss on the completion, one record per optimiser step, no noise."""

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hubinit.adapters.directions import CHILD
from hubinit.data.encode import (
    IGNORED,
    Example,
    ImageExample,
    TokenExample,
    batches,
    collate,
    collate_images,
    encode_all,
    pad_id,
)
from hubinit.errors import DivergedError, HubinitError
from hubinit.records import CurvePoint
from hubinit.specs import Recipe
from hubinit.training import optimisers
from hubinit.training.batching import check_packing, group_by_length, pack
from hubinit.training.losses import add_penalty, completion_loss, image_loss
from hubinit.training.ranks import Filled, Rounded, agree, count_ranks, is_first, split_batch
from hubinit.training.sharding import is_sharded, shard_base, sum_gradients
from hubinit.training.throughput import Throughput

CURVE_POINTS = 200  # at most about this many steps of a run are kept,
FIRST_STEPS = 20  # and all of the first ones
CHECKPOINT_SECONDS = 600.0  # a run shorter than this writes no checkpoint
OnLog = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainOutcome:
    """What training did; losses are means per label token (per image for classifiers)."""

    curve: tuple[CurvePoint, ...]
    steps: int
    validation_loss: float | None
    seconds: float  # the attempts before a checkpoint included
    cut: int  # training examples that were too long and lost tokens
    throughput: Throughput  # of the last attempt


def train(
    model: Any,
    processor: Any,
    examples: Sequence[Example] | Sequence[ImageExample],
    recipe: Recipe,
    *,
    learning_rate: float,
    seed: int,
    dropout_seed: int | None = None,
    validation: Sequence[Example] | Sequence[ImageExample] = (),
    output_dir: Path,
    on_log: OnLog | None = None,
    penalty: Callable[[], Tensor] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    mixed: bool = False,
    sharded: bool = False,
    report_to: Sequence[str] = (),
    run_name: str | None = None,
) -> TrainOutcome:
    """Trains whatever parameters of the model require a gradient, less what the optimiser freezes for good.

    Which adapters are active does not change.

    Every label token of an optimiser step weighs the same, however the step is cut into micro batches. For one seed, two runs
    on the same machine are bit-equal (on a GPU, as far as its kernels are deterministic). A long run leaves a checkpoint every
    ten minutes and, started again with the same `output_dir`, goes on from there; the checkpoints go when it is finished.
    Inside `hubinit.training.ranks.join_ranks`, each process trains its share, and the first one writes.

    Args:
        model: with its adapters attached, on its device.
        processor: its tokenizer or image processor.
        examples: training examples; their order is shuffled by `seed`.
        recipe: schedule, batch sizes and lengths.
        learning_rate: peak learning rate of the optimiser.
        seed: of the data order.
        dropout_seed: of dropout. Default: `seed`.
        validation: examples for `validation_loss`, scored after the last step.
        output_dir: where checkpoints go.
        on_log: called with (step, steps, loss) after every optimiser step.
        penalty: a term that the method adds to the loss of each optimiser step; `validation_loss` is without it.
        callbacks: what else acts while the model trains.
        mixed: compute in bfloat16, where the weights are float32.
        sharded: cut the frozen base over the processes that train together, see `hubinit.training.sharding`.
        report_to: trackers, by the Trainer's names for them.
        run_name: what they call the run.

    Raises:
        DivergedError: a loss or a gradient norm is not finite.
        HubinitError: nothing to train.
    """
    device = check(model, examples, recipe)
    started = time.perf_counter()
    images = isinstance(examples[0], ImageExample)
    optimiser = optimisers.get(recipe.optimiser)
    features: Any = examples
    cut = 0
    if not images:
        features, cut = encode_all(examples, processor, recipe.max_length, recipe.loss_on)  # type: ignore[arg-type]
    padded = partial(collate_images, processor=processor) if images else partial(collate, pad_id=pad_id(processor))
    if recipe.batching == "packed":
        check_packing(model, features)
    loss = image_loss if images else completion_loss
    throughput = Throughput()
    with prepare_training(model, recipe), shard_base(model) if sharded else nullcontext(model) as trained:
        trainer = AdapterTrainer(
            model=trained,
            args=trainer_arguments(
                recipe, len(examples), learning_rate, seed, output_dir, device, mixed, report_to, run_name, dropout_seed
            ),
            train_dataset=features if count_ranks() == 1 else Filled(features),
            data_collator={"length-grouped": list, "packed": pack}.get(recipe.batching, padded),
            compute_loss_func=loss if penalty is None else add_penalty(loss, penalty),
            callbacks=[throughput, Watch(on_log), *callbacks],
            optimizers=(optimiser.build(model, learning_rate, recipe), None),
        )
        trainer.throughput = throughput
        trainer.remove_callback(PrinterCallback)
        trainer.padded = padded if recipe.batching == "length-grouped" else None
        trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad):
        raise DivergedError("Training diverged: the trained weights are not finite; a lower learning rate may help.")
    if is_first():
        remove_checkpoints(output_dir)
    return TrainOutcome(
        curve=thin([point for log in trainer.state.log_history if (point := curve_point(log))]),
        steps=trainer.state.global_step,
        validation_loss=mean_loss(model, processor, validation, recipe) if validation else None,
        seconds=trainer.earlier_seconds + time.perf_counter() - started,
        cut=cut,
        throughput=throughput,
    )


def check(model: Any, examples: Sequence[Any], recipe: Recipe) -> torch.device:
    """Refuses what cannot be trained, and says on which device the model is."""
    if not examples:
        raise HubinitError("There are no training examples.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise HubinitError("No parameter of the model requires a gradient, so there is nothing to train.")
    device: torch.device = next(model.parameters()).device
    if device.type == "cuda" and device.index:
        raise HubinitError(
            f"The model is on {device}, and training uses the first GPU it sees; set CUDA_VISIBLE_DEVICES."
        )
    if recipe.batching != "shuffled" and isinstance(examples[0], ImageExample):
        raise HubinitError(f"recipe.batching={recipe.batching} is for texts; images are all of one size. Leave it out.")
    return device


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: the Trainer writes its state last."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[-1]))) if complete else None


def remove_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints of a finished run, and the folder if nothing else is in it."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def total_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps of a run; the last step of an epoch may hold fewer examples."""
    return recipe.steps or math.ceil(recipe.epochs * math.ceil(examples / recipe.batch_size))


def trainer_arguments(
    recipe: Recipe,
    examples: int,
    learning_rate: float,
    seed: int,
    output_dir: Path,
    device: torch.device,
    mixed: bool = False,
    report_to: Sequence[str] = (),
    run_name: str | None = None,
    dropout_seed: int | None = None,
) -> TrainingArguments:
    """The recipe in the Trainer's words."""
    ranks = count_ranks()
    micro, passes = split_batch(recipe.batch_size, recipe.micro_batch_size, ranks)
    steps = total_steps(recipe, examples)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        learning_rate=learning_rate,
        lr_scheduler_type=recipe.schedule if recipe.schedule != "constant" else "constant_with_warmup",
        warmup_steps=math.ceil(recipe.warmup_ratio * steps) if recipe.warmup_steps is None else recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm or math.inf,  # infinite: measured, not clipped
        seed=seed if dropout_seed is None else dropout_seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        save_strategy="no",  # `Watch` decides
        save_total_limit=1,
        eval_strategy="no",
        report_to=list(report_to),
        run_name=run_name,
        project="hubinit",  # of trackio,
        hub_private_repo=True,  # whose Space, if its own variable asks for one, is nobody else's
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        bf16=mixed,
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=True,  # directions that are not chosen yet, experts that nothing went through
        ddp_broadcast_buffers=False,
    )
    arguments.trackio_static_space_id = False  # no second, frozen Space
    if device.type == "cuda" and ranks == 1:
        arguments._n_gpu = 1  # one process per device: never torch's DataParallel over all that are visible
    return arguments


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """The Trainer with checkpoints of what is trained and nothing else.

    The Trainer's own loading of PEFT checkpoints switches all but one active adapter off, an anchor for example.
    """

    earlier_seconds = 0.0  # what earlier attempts took until the checkpoint that this one goes on from
    started = 0.0
    padded: Callable[[Any], dict[str, Tensor]] | None = None  # pads each group; None: the collator made whole batches
    throughput: Throughput
    order: Rounded | None = None  # with several ranks

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a micro batch, whose tokens are counted."""
        self.throughput.count(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, and knows since when."""
        self.started = time.perf_counter()
        return super().train(*args, **kwargs)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        return sum_gradients(model) if is_sharded(model) else super()._wrap_model(model, training, dataloader)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if (ranks := count_ranks()) == 1:
            return super()._get_train_sampler(train_dataset)
        multiple = self.args.per_device_train_batch_size * ranks
        self.order = Rounded(len(self.train_dataset), self.args.data_seed, multiple)
        return self.order

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.order is not None:  # accelerate does not reach it where a run goes on within an epoch
            self.order.set_epoch(kwargs["epoch"])
        super()._run_epoch(**kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro batches of one optimiser step, and their label tokens (images)."""
        if self.padded is not None:
            features = [feature for batch in islice(epoch_iterator, num_batches) for feature in batch]
            groups = group_by_length(features, self.args.per_device_train_batch_size)
            epoch_iterator = iter([self.padded(group) for group in groups])
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        save_file(self._trained(), folder / "trained.safetensors", {"seconds": str(seconds)})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with safe_open(Path(resume_from_checkpoint) / "trained.safetensors", "pt") as stored, torch.no_grad():
            self.earlier_seconds = float((stored.metadata() or {}).get("seconds", 0.0))
            for name, parameter in self._trained().items():
                parameter.copy_(stored.get_tensor(name))

    def _trained(self) -> dict[str, Tensor]:
        """What training changes: the parameters that require a gradient, and directions once they are chosen."""
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        return trained | {name: value for name, value in self.model.named_buffers() if f".{CHILD}." in name}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each optimiser step, stops at the first that is not finite, and asks for a checkpoint now and then."""

    def __init__(self, report: OnLog | None) -> None:
        self.report = report
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the Trainer after each optimiser step, and once more with totals, which are not a step."""
        point = curve_point({"step": state.global_step, **(logs or {})})
        if point is None:
            return
        if not (math.isfinite(point.loss) and math.isfinite(point.grad_norm or 0.0)):
            raise DivergedError(
                f"Training diverged at step {point.step} of {state.max_steps}: loss {point.loss}, gradient norm "
                f"{point.grad_norm}; a lower learning rate may help."
            )
        if self.report is not None:
            self.report(point.step, state.max_steps, point.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each optimiser step."""
        due = time.monotonic() - self.saved > CHECKPOINT_SECONDS and state.global_step < state.max_steps
        if agree(due):  # a part of a checkpoint is each rank's own
            self.saved = time.monotonic()
            control.should_save = True


def curve_point(log: dict[str, Any]) -> CurvePoint | None:
    """One record of the Trainer's log, None when it is not an optimiser step."""
    if "loss" not in log:
        return None
    return CurvePoint(
        step=log["step"], loss=log["loss"], grad_norm=log.get("grad_norm"), learning_rate=log.get("learning_rate")
    )


def thin(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """The first `FIRST_STEPS` points, then every k-th, so that about `CURVE_POINTS` remain, and the last."""
    every = max(1, math.ceil(len(points) / CURVE_POINTS))
    return tuple(
        point
        for index, point in enumerate(points)
        if index < FIRST_STEPS or index % every == 0 or index == len(points) - 1
    )


@torch.no_grad()
def mean_loss(
    model: Any, processor: Any, examples: Sequence[Example | TokenExample] | Sequence[ImageExample], recipe: Recipe
) -> float:
    """The loss over all examples per label token (per image for classifiers), in the recipe's micro batches."""
    device = next(model.parameters()).device
    loss = image_loss if isinstance(examples[0], ImageExample) else completion_loss
    total, count = 0.0, 0
    size, length = recipe.micro_batch_size, recipe.max_length
    for batch in batches(examples, processor, batch_size=size, max_length=length, loss_on=recipe.loss_on):
        labels = batch.pop("labels").to(device)
        outputs = model(**{name: value.to(device) for name, value in batch.items()})
        total += float(loss(outputs, labels, num_items_in_batch=1))
        count += int((labels != IGNORED).sum())
    return total / count


@contextmanager
def prepare_training(model: Any, recipe: Recipe) -> Iterator[None]:
    """Sets the model up for training and, however that ends, back for use: evaluation mode, caches for generation.

    With `gradient_checkpointing`, activations are recomputed in the backward pass: less memory, about a third more time.
    """
    caches = getattr(model.config, "use_cache", None)  # the Trainer switches it off
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # older transformers
    if recipe.gradient_checkpointing:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the Trainer's calls of its own deprecated names
            yield
    finally:
        if recipe.gradient_checkpointing:
            getattr(model, f"{name}_checkpointing_disable")()
        if caches is not None:
            model.config.use_cache = caches
        model.eval()
