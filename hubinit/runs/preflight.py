"""What is found before the work: everything about a run that can be wrong and is known without weights and without a pass."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from hubinit import adapters, methods, tasks
from hubinit.adapters.attach import check_rank
from hubinit.adapters.configs import classification_heads
from hubinit.adapters.passthrough import attach_config
from hubinit.errors import HubError, HubinitError, InitialisationError
from hubinit.models.kinds import KINDS
from hubinit.models.layers import target_layers
from hubinit.models.shapes import outline
from hubinit.specs import FULL, NO_ADAPTER, DataSpec, ModelSpec, Recipe, RunSpec
from hubinit.training.ranks import split_batch
from hubinit.training.sharding import find_blocks


def check_targets(spec: RunSpec) -> None:
    """Checks the target modules, the rank and alpha of a run against the shapes of its model; nothing without an adapter.

    Raises:
        HubinitError: targets that match nothing, a rank above a layer's, options that PEFT refuses on this model, or a model
            whose configuration cannot be had.
    """
    if spec.method.name in NO_ADAPTER:
        return
    model = outline(spec.model)[0]
    layers = target_layers(model, spec.target_modules)
    check_rank(spec.rank, spec.alpha, layers)
    if methods.get(spec.method.name).peft_config is not None:
        _check_peft(spec, model, layers)


def _check_peft(spec: RunSpec, model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Lets PEFT attach its adapter to the empty model: what it refuses there, it refuses with the weights in memory too."""
    method = methods.get(spec.method.name)
    options = methods.parse_options(method, spec.method.options)
    heads = classification_heads(model)
    dropout = spec.recipe.lora_dropout if spec.recipe is not None else 0.0
    attach = partial(
        attach_config, rank=spec.rank, alpha=spec.alpha, rslora=spec.rslora, dropout=dropout, seed=spec.seed_of("init")
    )
    try:
        attach(model, method, options, layers, heads)
    except InitialisationError as error:
        if "meta" not in str(error):  # it looked at a weight, and there are none
            raise
    finally:
        adapters.detach(model)


def check_lengths(spec: RunSpec) -> None:
    """Refuses texts that may be longer than the model's context; nothing where its configuration does not say that.

    Raises:
        HubinitError: the recipe or the calibration asks for too many tokens, or the configuration cannot be had.
    """
    wanted = {"recipe": spec.recipe, "calibration": spec.calibration}
    if KINDS[spec.model.kind].labelled or not any(wanted.values()):
        return
    config: Any = outline(spec.model)[0].config
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    for name, part in wanted.items():
        if part is not None and context is not None and part.max_length > context:
            raise HubinitError(
                f"{name}.max_length is {part.max_length}, and {spec.model.id} reads {context} tokens at most; "
                f"add --set {name}.max_length={context} or less."
            )


def check_samples(asked: int | None, available: int, name: str) -> None:
    """Checks the number of calibration examples that the user asked for; a default number takes what there is.

    Raises:
        HubinitError: there are fewer.
    """
    if asked is not None and asked > available:
        raise HubinitError(
            f"{name} has {available} examples, and {asked} are asked for with --calibration-samples; ask for at most {available}."
        )


def check_runs(specs: Iterable[RunSpec], asked: int | None) -> None:
    """Checks everything about planned runs that can be; each model and data set once.

    What cannot be had for checking costs its own runs later, not the others now.

    Args:
        specs: the runs.
        asked: calibration examples, where the user named their number.

    Raises:
        HubinitError: as `check_targets`, `check_lengths` and `check_samples`.
    """
    shapes, sizes = set[str](), set[DataSpec]()
    read = set[tuple[ModelSpec, tuple[int | None, ...]]]()
    for spec in specs:
        start = spec.model_copy(
            update={"learning_rate": 0.0, "seed": 0, "data": None, "calibration": None, "recipe": attached(spec.recipe)}
        )
        with suppress(HubError):
            if start.key not in shapes:
                shapes.add(start.key)
                check_targets(start)
            lengths = tuple(part.max_length if part else None for part in (spec.recipe, spec.calibration))
            if (spec.model, lengths) not in read:
                read.add((spec.model, lengths))
                check_lengths(spec)
            if asked is not None and spec.calibration is not None and spec.data is not None and spec.data not in sizes:
                sizes.add(spec.data)
                check_samples(asked, tasks.training_size(spec.data), ", ".join(spec.data.tasks))


def check_processes(specs: Sequence[RunSpec], processes: int, *, fsdp: bool = False) -> None:
    """Checks that the runs can be trained by so many processes together on this machine.

    Raises:
        HubinitError: fewer GPUs than processes, a batch that they cannot share, or a base that they cannot.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise HubinitError(f"--processes-per-run {processes} needs as many GPUs, and {gpus} can be seen here.")
    for spec in specs:
        if spec.recipe is not None:
            split_batch(spec.recipe.batch_size, spec.recipe.micro_batch_size, processes)
    if fsdp:
        _check_sharding(specs, processes)


def _check_sharding(specs: Sequence[RunSpec], processes: int) -> None:
    """Checks that the base of each run can be cut over the processes while its adapter is trained."""
    if processes == 1:
        raise HubinitError("--fsdp cuts the base over processes: add --processes-per-run 2 or more, or leave it out.")
    looked_at = set[str]()
    for spec in specs:
        name = spec.method.name
        if spec.recipe is None:
            continue
        if name == FULL:
            raise HubinitError(f"--fsdp shards a frozen base, and '{FULL}' trains all of it; leave one of the two out.")
        if name not in NO_ADAPTER and methods.get(name).directions is not None:
            raise HubinitError(f"'{name}' reads whole weights while it trains, and --fsdp shards them; leave one out.")
        if spec.model.quantize is not None:
            raise HubinitError("--fsdp cannot shard a quantised base; leave out --fsdp or --quantize.")
        if spec.model.key not in looked_at:
            looked_at.add(spec.model.key)
            with suppress(HubError):  # that costs its own runs later
                find_blocks(outline(spec.model)[0])


def attached(recipe: Recipe | None) -> Recipe | None:
    """What of a recipe is in the adapter: its dropout."""
    return Recipe(lora_dropout=recipe.lora_dropout) if recipe is not None else None
