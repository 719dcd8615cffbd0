"""Start points: from a model, a method and (where the method needs it) data to a folder that plain PEFT loads and trains.

The folder is what the Hub gets: the adapter before training, `anchor/` where one is needed, `hubinit.json` and a card.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubinit.bench.costs import Stopwatch, provenance
from hubinit.bench.plan import calibration_spec, expand_methods, method_spec, read_protocol
from hubinit.bench.results import RunResult
from hubinit.config import DataSpec, ModelSpec, Protocol, RunSpec
from hubinit.data import Example, ImageExample, TokenExample
from hubinit.endpoint import home
from hubinit.errors import HubinitError
from hubinit.userdata import UserData

if TYPE_CHECKING:
    from hubinit.calibration.shared import Need
    from hubinit.hub.manifest import Manifest
    from hubinit.models import Loaded

Pool = Sequence[Example | TokenExample] | Sequence[ImageExample]
Report = Callable[[str, int, int], None]  # what is done now, steps done, steps in all (0: unknown)
ANY_TEXT = Example(
    "The sky on a clear day is", " blue, and at night it is black."
)  # for the gate of methods without data


@dataclass(frozen=True)
class StartRequest:
    """What the user asked for; None means the preset's value.

    `overrides` are `key=value`: an option of the method (`selection=M`) or a setting of the preset (`calibration.tokens=labels`).
    """

    model: str
    method: str
    task: str | None = None
    data: str | None = None
    data_config: str | None = None
    data_split: str = "train"
    rank: int | None = None
    alpha: float | None = None
    seed: int = 0
    calibration_samples: int | None = None
    max_length: int | None = None
    target_modules: tuple[str, ...] = ()
    preset: str = "default"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStart:
    """A start point to make: its specification, the suite or task it is for, and the user's own data."""

    spec: RunSpec
    group: str | None = None
    own: UserData | None = None

    @property
    def default_folder(self) -> Path:
        """Where it lies when the user names no folder."""
        return home() / "inits" / self.spec.key


def plan_start(request: StartRequest) -> PlannedStart:
    """Reads and checks everything that is known before the model is loaded, the user's data included.

    Raises:
        HubinitError: an unknown name, a wrong option, data that cannot be used, or a Hub that does not answer.
    """
    from hubinit import models

    checked_methods((request.method,))
    model = models.pin(models.resolve(request.model))
    protocol = start_protocol(request)
    data, own = data_of(request, model, protocol)
    spec = start_spec(model, request.method, data, protocol, seed=request.seed, samples=request.calibration_samples)
    if spec.calibration is not None and data is None:
        raise HubinitError(f"{request.method} is data-aware: give it --task or --data.")
    used = spec.data is not None
    return PlannedStart(spec, request.task if used else None, own if used else None)


def start_protocol(request: StartRequest) -> Protocol:
    """The preset with what the request changes."""
    overrides = [
        override
        if "." in override.partition("=")[0] or override.partition("=")[0] in Protocol.model_fields
        else f"{request.method}.{override}"
        for override in request.overrides
    ]
    protocol = read_protocol(request.preset, overrides)
    changed: dict[str, Any] = {}
    if request.rank is not None:
        changed["rank"] = request.rank
    if request.alpha is not None:
        changed["alpha"] = request.alpha
    if request.target_modules:
        names = request.target_modules
        changed["target_modules"] = names[0] if len(names) == 1 and names[0] == "all-linear" else names
    if request.max_length is not None:
        changed["calibration"] = protocol.calibration.model_copy(update={"max_length": request.max_length})
    return protocol.model_copy(update=changed)


def data_of(request: StartRequest, model: ModelSpec, protocol: Protocol) -> tuple[DataSpec | None, UserData | None]:
    """The data that the request names; the user's own are read and checked.

    Raises:
        HubinitError: data that cannot be used with this model.
    """
    from hubinit import userdata

    if request.task and request.data:
        raise HubinitError("Give --task or --data, not both.")
    if request.task:
        return task_data(request.task, model, protocol), None
    if model.kind == "vision":
        raise HubinitError(f"{model.id} is an image model: give --task, whose classes its head is made for.")
    if request.data is None:
        return None, None
    own = userdata.read(request.data, config=request.data_config, split=request.data_split)
    return DataSpec(tasks=(own.name,), revisions=(own.revision,)), own


def task_data(group: str, model: ModelSpec, protocol: Protocol) -> DataSpec:
    """The training splits of a task or suite; the same as a benchmark run with this protocol trains on.

    Raises:
        HubinitError: unknown, or not for this kind of model.
    """
    from hubinit import tasks

    members = tasks.members(group)
    for name in members:
        if tasks.get(name).kind != model.kind:
            raise HubinitError(
                f"'{name}' is a {tasks.get(name).kind} task and {model.id} a {model.kind} model; choose another task."
            )
    if model.kind == "vision" and len(members) > 1:
        raise HubinitError(f"'{group}' is a suite of image tasks, each with its own classes; choose one of them.")
    return DataSpec(
        tasks=members,
        revisions=tuple(tasks.pin(name) for name in members),
        samples=protocol.samples,
        validation_samples=protocol.validation_samples,
    )


def start_spec(
    model: ModelSpec, name: str, data: DataSpec | None, protocol: Protocol, *, seed: int, samples: int | None
) -> RunSpec:
    """A run that ends before training: no recipe, no learning rate, and no data where the start does not depend on them."""
    method = method_spec(name, protocol)
    calibration = calibration_spec(method, protocol, samples)
    return RunSpec(
        model=model,
        method=method,
        rank=protocol.rank,
        alpha=protocol.alpha if protocol.alpha is not None else 2 * protocol.rank,
        rslora=protocol.rslora,
        target_modules=protocol.target_modules,
        data=data if calibration is not None or model.kind == "vision" else None,
        calibration=calibration,
        seed=seed,
    )


def checked_methods(names: Sequence[str]) -> list[str]:
    """The methods, `all` expanded.

    Raises:
        HubinitError: an unknown one, or `none`, which has no adapter.
    """
    methods = expand_methods(names)
    if "none" in methods:
        raise HubinitError("Method 'none' is the base itself: it has no start point to make.")
    return methods


def finished(folder: Path, spec: RunSpec) -> "Manifest | None":
    """The start point that lies in a folder already, or None when the folder is free.

    Raises:
        HubinitError: the folder holds something else.
    """
    from hubinit.hub.manifest import FILE_NAME, read_manifest, sha256

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if (folder / FILE_NAME).is_file():
        manifest = read_manifest((folder / FILE_NAME).read_bytes(), str(folder))
        whole = all((folder / name).is_file() and sha256(folder / name) == d for name, d in manifest.files.items())
        if manifest.kind == "initialised" and manifest.result.key == spec.key and whole:
            return manifest
    raise HubinitError(f"{folder} holds something else than this start point; delete it or choose another folder.")


def load_base(spec: RunSpec, watch: Stopwatch, report: Report) -> "Loaded":
    """Loads the base of a start point, with the head of its task for an image classifier."""
    from hubinit import models, tasks

    report(f"loading {spec.model.id}", 0, 0)
    labels = (
        tasks.labels(spec.data.tasks[0], spec.data.revisions[0]) if spec.model.kind == "vision" and spec.data else None
    )
    with watch.stage("load"):
        return models.load(spec.model, labels=labels)


def pool_of(planned: PlannedStart, loaded: "Loaded", samples: int) -> Pool:
    """The calibration examples: as many as asked for, chosen by the calibration's seed.

    Raises:
        HubinitError: data that this model's tokenizer cannot use, or a data set that cannot be had.
    """
    from hubinit import rendering, tasks

    spec = planned.spec
    seed = spec.calibration.seed if spec.calibration else 0
    if planned.own is not None:
        return rendering.examples(planned.own, loaded.processor, samples=samples, seed=seed)
    if spec.data is None:
        return [ANY_TEXT]
    return tasks.training_examples(spec.data, seed)[0]


def make_start(
    spec: RunSpec,
    loaded: "Loaded",
    pool: Pool,
    needs: "Sequence[Need]",
    folder: Path,
    *,
    watch: Stopwatch,
    command: str,
    report: Report,
) -> "Manifest":
    """Calibrates (with what other methods need of the same data), initialises, checks and writes one start point.

    The folder appears at once and complete. The base is untouched afterwards.

    Args:
        spec: from `start_spec`.
        loaded: its base model.
        pool: from `pool_of`.
        needs: what all methods ask of this calibration, this one included.
        folder: is created.
        watch: has the cost of loading already.
        command: how it was made, for the card.
        report: called as the work goes on.

    Raises:
        HubinitError: the method cannot initialise this model with these data, or the start is not the promised one.
    """
    from hubinit import adapters, data, methods
    from hubinit.bench import gates
    from hubinit.calibration.shared import shared_calibration

    calibration = None
    if spec.calibration is not None:
        report("calibrating", 0, 0)
        with watch.stage("calibrate"):
            calibration = shared_calibration(
                loaded,
                pool,
                spec.calibration,
                needs,
                home() / "calibrations",
                target_modules=spec.target_modules,
                on_batch=lambda done, total: report("calibrating", done, total),
            )
        watch.charge("calibrate", calibration.seconds)
    report(f"initialising {spec.method.name} at rank {spec.rank}", 0, 0)
    (batch,) = data.batches(pool[:4], loaded.processor, batch_size=4, max_length=64)
    batch = {name: tensor.to(loaded.device) for name, tensor in batch.items()}
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        with watch.stage("initialise"):
            model = adapters.initialize(
                loaded.model,
                spec.method.name,
                rank=spec.rank,
                alpha=spec.alpha,
                calibration=calibration,
                target_modules=spec.target_modules,
                rslora=spec.rslora,
                seed=spec.seed,
                **spec.method.options,
            )
        measured = gates.check_start(model, batch, methods.get(spec.method.name).start)
        saved = adapters.save_initialized(model, temporary, base=spec.model.id, revision=spec.model.revision)
        result = RunResult(
            key=spec.key,
            spec=spec,
            status="ok",
            costs=watch.costs,
            trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            adapter_bytes=saved.bytes,
            adapter_sha256=saved.sha256,
            gates={"start": measured},
            initialisation=model.hubinit_report.summary(),
            provenance=provenance(command),
        )
        manifest = write_about(result, temporary, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
        return manifest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        adapters.detach(loaded.model)


def write_about(result: RunResult, directory: Path, final: Path) -> "Manifest":
    """Writes the card and `hubinit.json` of a start point that will lie in the folder `final`."""
    from huggingface_hub import HfApi

    from hubinit.hub.cards import adapter_card
    from hubinit.hub.manifest import CARD, read_manifest
    from hubinit.hub.publication import base_licence, describe, num_labels
    from hubinit.methods import METHODS
    from hubinit.tasks import TASKS

    path = describe(result, directory, "initialised")
    manifest = read_manifest(path.read_bytes(), str(directory))
    card = adapter_card(
        manifest,
        str(final),
        licence=base_licence(HfApi(), result.spec),
        datasets={name: task.dataset for name, task in TASKS.items()},
        method=METHODS.get(result.spec.method.name),
        num_labels=num_labels(directory / "adapter_model.safetensors") if result.spec.model.kind == "vision" else None,
    )
    (directory / CARD).write_text(card, encoding="utf-8")
    return manifest
