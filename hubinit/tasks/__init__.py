"""Benchmarks: one file each, with one `Task`. A new one is a file here and an entry in the list below."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from hubinit.data.encode import Example, ImageExample
from hubinit.errors import HubinitError, nearest
from hubinit.models.kinds import KINDS
from hubinit.remote import commit_sha
from hubinit.specs import DataSpec, EvalSpec, ModelSpec, Protocol, RunSpec
from hubinit.tasks import (
    alpaca,
    aqua,
    arc_challenge,
    arc_challenge_gen,
    arc_easy,
    arc_easy_gen,
    boolq,
    boolq_gen,
    cars,
    cifar10,
    codefeedback,
    digits,
    dtd,
    e2e,
    e2e_kasa,
    eurosat,
    fashion_mnist,
    gsm8k,
    gsm8k_lora_da,
    gsm8k_lora_ga,
    gsm8k_milora,
    gsm8k_peft,
    gtsrb,
    hellaswag,
    hellaswag_gen,
    hendrycks_math,
    humaneval,
    humaneval_lora_ga,
    math_500,
    mawps,
    mbpp,
    metamath,
    metamath_gsm,
    metamath_peft,
    mt_bench,
    named,
    openbookqa,
    openbookqa_gen,
    piqa,
    piqa_gen,
    resisc45,
    siqa,
    siqa_gen,
    sun397,
    svamp,
    svhn,
    winogrande,
    winogrande_gen,
    wizardlm,
)
from hubinit.tasks.spec import Task

COMMONSENSE = (boolq, piqa, siqa, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa)
COMMONSENSE_GEN = (
    boolq_gen,
    piqa_gen,
    siqa_gen,
    hellaswag_gen,
    winogrande_gen,
    arc_easy_gen,
    arc_challenge_gen,
    openbookqa_gen,
)
GSM8K_PAPERS = (gsm8k_lora_da, gsm8k_lora_ga, gsm8k_milora)
INSTRUCTIONS = (metamath, metamath_gsm, metamath_peft, codefeedback, alpaca, wizardlm)  # to train on alone
ARITHMETIC = (svamp, mawps, aqua)
CODE = (mbpp, humaneval, humaneval_lora_ga)
TEXT = (e2e, e2e_kasa)
IMAGE = (cars, dtd, eurosat, gtsrb, resisc45, sun397, svhn)
SMALL = (cifar10, digits, fashion_mnist)
TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        *(*COMMONSENSE, *COMMONSENSE_GEN, gsm8k, *GSM8K_PAPERS, hendrycks_math, math_500, *ARITHMETIC),
        *(*CODE, *TEXT, mt_bench, *IMAGE, *SMALL),
        *(gsm8k_peft, *INSTRUCTIONS),
    )
}
SUITES: dict[str, tuple[str, ...]] = {
    "commonsense": tuple(module.TASK.name for module in COMMONSENSE),
    "commonsense-gen": tuple(module.TASK.name for module in COMMONSENSE_GEN),
    "gsm8k-papers": tuple(module.TASK.name for module in GSM8K_PAPERS),
    "arithmetic": tuple(module.TASK.name for module in ARITHMETIC),
    "image": tuple(module.TASK.name for module in IMAGE),
}


def get(name: str) -> Task:
    """The task with this name: a registered one, or any of lm-eval as `lm-eval:<name>`.

    Raises:
        HubinitError: there is not one; the message names the nearest.
    """
    if named.is_named(name):
        return named.find(name)
    if name not in TASKS:
        hint = nearest(name, [*TASKS, *SUITES])
        raise HubinitError(f"Unknown task '{name}': {hint}")
    return TASKS[name]


def members(group: str) -> tuple[str, ...]:
    """The tasks of a suite or of a tag of lm-eval, or the one task of that name.

    Raises:
        HubinitError: neither a suite nor a task.
    """
    if named.is_named(group):
        return named.expand(group)
    return SUITES[group] if group in SUITES else (get(group).name,)


def shots(name: str, asked: EvalSpec | Protocol) -> int:
    """Solved examples in the prompt of a task: as asked for, or as its definition has it."""
    return asked.shots if "shots" in asked.model_fields_set else get(name).shots


def check_kind(group: str, model: ModelSpec) -> None:
    """Refuses a task or suite that is for another kind of model.

    Raises:
        HubinitError: it is, or there is not one of that name.
    """
    for name in members(group):
        if get(name).kind != model.kind:
            raise HubinitError(
                f"'{name}' is a {get(name).kind} task and {model.id} a {model.kind} model; choose other tasks."
            )


def pin(name: str, revision: str | None = None) -> str | None:
    """The commit of the task's data set on the Hub; None when it is a local folder, or not one data set.

    Args:
        name: of the task.
        revision: branch, tag or commit. Default: the newest commit.

    Raises:
        HubError: no such data set or revision, no access, or no Hub and no copy in the cache.
    """
    task = get(name)
    return None if not task.dataset or Path(task.dataset).is_dir() else commit_sha(task.dataset, "dataset", revision)[0]


def head_labels(spec: RunSpec) -> list[str] | None:
    """The classes that the head of a run's base must have; None where it keeps its own."""
    if not KINDS[spec.model.kind].labelled or spec.data is None:
        return None
    return labels(spec.data.tasks[0], spec.data.revisions[0] if spec.data.revisions else None)


def check_trainable(names: Sequence[str]) -> None:
    """Refuses to train on tasks that have nothing to train on.

    Raises:
        HubinitError: there is one.
    """
    for name in names:
        if not get(name).train_split:
            raise HubinitError(
                f"Task '{name}' has no training data: train on another one, and add --eval-tasks {name}."
            )


def labels(name: str, revision: str | None = None) -> list[str]:
    """The class names of an image task, in the order of their indices."""
    from hubinit.tasks.images import class_names

    return class_names(get(name), revision)


def training_examples(
    data: DataSpec, seed: int
) -> tuple[Sequence[Example] | Sequence[ImageExample], Sequence[Example] | Sequence[ImageExample]]:
    """Training and validation examples, both from the training splits.

    The training splits of all tasks are joined and shuffled, so a mixture is proportional to their sizes. The validation
    examples are the same for every seed: settings are compared on one set, and no seed trains or calibrates on it. Only the
    chosen examples are rendered, images when they are looked at.

    Args:
        data: which tasks, at which revisions, and how many examples.
        seed: of the choice and order of the training examples.

    Returns:
        `data.samples` (or all the rest) examples for training, and `data.validation_samples` for validation.

    Raises:
        HubinitError: unknown task, tasks of different kinds, more than one image task, or too few examples.
    """
    from hubinit.tasks import images

    splits, vision = _training_splits(data)
    index = [(which, row) for which, split in enumerate(splits) for row in range(len(split))]
    Random(0).shuffle(index)  # noqa: S311
    held_out, rest = index[: data.validation_samples], index[data.validation_samples :]
    Random(seed).shuffle(rest)  # noqa: S311

    def render(rows: Sequence[tuple[int, int]]) -> Sequence[Example] | Sequence[ImageExample]:
        if vision:
            return images.ImageExamples(splits[0], tuple(row for _, row in rows))
        return [splits[which].example(row) for which, row in rows]

    return render(rest[: data.samples]), render(held_out)


def training_size(data: DataSpec) -> int:
    """How many training examples `training_examples` gives.

    Raises:
        HubinitError: as `training_examples`.
    """
    splits, _ = _training_splits(data)
    rest = sum(map(len, splits)) - data.validation_samples
    return rest if data.samples is None else min(rest, data.samples)


def _training_splits(data: DataSpec) -> tuple[list[Any], bool]:
    """The training split of each task, and whether they are images."""
    tasks = [get(name) for name in data.tasks]
    kinds = {task.kind for task in tasks}
    if len(kinds) != 1 or (kinds == {"vision"} and len(tasks) > 1):
        raise HubinitError(
            f"One run cannot train on {', '.join(data.tasks)} together: a mixture is of language tasks only, and each image "
            "task has its own classes."
        )
    check_trainable(data.tasks)
    revisions = data.revisions or (None,) * len(tasks)
    splits: list[Any] = []
    for task, revision in zip(tasks, revisions, strict=True):
        splits.append(_source(task).training_split(task, revision))
    size = sum(map(len, splits))
    if not size:
        raise HubinitError(f"{', '.join(data.tasks)} has no training examples; choose another task.")
    if data.validation_samples >= size:
        raise HubinitError(
            f"{', '.join(data.tasks)} has {size} training examples, too few to hold out {data.validation_samples} "
            "for validation; lower validation_samples."
        )
    return splits, kinds == {"vision"}


def _source(task: Task) -> Any:
    """The file here that loads the task's data."""
    from hubinit.tasks import harness, images, rows

    if task.kind == "vision":
        return images
    return rows if task.generative else named if named.is_named(task.name) else harness


__all__ = ["SUITES", "TASKS", "Task", "get", "labels", "members", "pin", "training_examples", "training_size"]
