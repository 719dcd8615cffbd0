"""Start points: from a model, a method and (where the method needs it) data to a folder that plain PEFT loads and trains.

The folder is what the Hub gets: the adapter before training, `anchor/` where one is needed, `hubinit.json` and a card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubinit.data.own import UserData
from hubinit.errors import HubinitError
from hubinit.paths import home
from hubinit.runs.plan import calibration_spec, expand_methods, method_spec
from hubinit.runs.protocol import read_protocol
from hubinit.specs import DataSpec, ModelSpec, Protocol, RunSpec


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
    from hubinit.models import names

    checked_methods((request.method,))
    model = names.pin(names.resolve(request.model))
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
    from hubinit.data import own as userdata

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
    calibration = calibration_spec(
        method, protocol.model_copy(update={"calibration_samples": samples or protocol.calibration_samples})
    )
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
