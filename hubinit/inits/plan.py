"""Start points: from a model, a method and (where the method needs it) data to a folder that plain PEFT loads and trains.

The folder is what the Hub gets: the adapter before training, `anchor/` where one is needed, `hubinit.json` and a card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubinit import methods as registry
from hubinit import tasks
from hubinit.data import own as own_data
from hubinit.data.own import UserData
from hubinit.errors import HubinitError
from hubinit.models.kinds import KINDS, start_of
from hubinit.paths import home
from hubinit.runs.plan import check_options, chosen_model, data_spec, expand_methods, pinning, run_spec
from hubinit.runs.preflight import check_samples, check_targets
from hubinit.runs.protocol import DEFAULT, read_protocol
from hubinit.specs import NO_ADAPTER, DataSpec, Dtype, ModelSpec, Protocol, RunSpec

# Methods whose start point plain PEFT does not rebuild from a saved adapter, and why.
WITHOUT_LINES = {
    "kasa": "it truncates the base's weights when PEFT attaches it, and truncates them again when the adapter is loaded; "
    "use `hubinit bench` or `train`"
}


@dataclass(frozen=True)
class StartRequest:
    """What the user asked for; None means the protocol's value.

    `columns` map `prompt`, `completion`, … to the data's own names. `overrides` are `key=value`: an option of the method
    (`selection=M`) or a setting of the protocol (`calibration.tokens=labels`).
    """

    model: str
    method: str
    task: str | None = None
    data: str | None = None
    data_config: str | None = None
    data_split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    rank: int | None = None
    alpha: float | None = None
    seed: int = 0
    calibration_samples: int | None = None
    max_length: int | None = None
    target_modules: tuple[str, ...] = ()
    dtype: Dtype = "auto"
    protocol: str = DEFAULT
    overrides: tuple[str, ...] = ()
    suggest_rate: bool = False


@dataclass(frozen=True)
class PlannedStart:
    """A start point to make: its specification, the suite or task it is for, and the user's own data.

    `trial`: the training, with its data and recipe, that a learning rate is to be suggested for.
    """

    spec: RunSpec
    group: str | None = None
    own: UserData | None = None
    trial: RunSpec | None = None

    @property
    def default_folder(self) -> Path:
        """Where it lies when the user names no folder."""
        return home() / "inits" / self.spec.key

    @property
    def suite(self) -> str | None:
        """The suite that it is for, when that is more than one task."""
        return self.group if self.spec.data and len(self.spec.data.tasks) > 1 else None

    @property
    def population(self) -> int | None:
        """How many examples there are to train on; None where the start does not depend on data."""
        if self.own is not None:
            return len(self.own.rows)
        return tasks.training_size(self.spec.data) if self.spec.data else None


def plan_start(request: StartRequest) -> PlannedStart:
    """Reads and checks everything that is known before the model is loaded, the user's data included.

    Raises:
        HubinitError: an unknown name, a wrong option, targets or a rank that do not fit the model, data that cannot be used, or
            a Hub that does not answer.
    """
    check_methods((request.method,))
    protocol = start_protocol(request)
    check_options(protocol, (request.method,))
    model = chosen_model(request.model, request.dtype)
    data, own = data_of(request, model, protocol)
    run = run_spec(model, request.method, data, protocol).model_copy(update={"seed": request.seed})
    spec = start_of(run)
    if request.suggest_rate and data is None:
        raise HubinitError("--suggest-lr measures the start on training examples: give it --task or --data.")
    trial = run if request.suggest_rate else None
    if trial is not None and trial.recipe is not None and request.max_length is not None:
        shorter = trial.recipe.model_copy(update={"max_length": request.max_length})
        trial = trial.model_copy(update={"recipe": shorter})
    if spec.calibration is not None:
        if data is None:
            raise HubinitError(f"{request.method} is data-aware: give it --task or --data.")
        check_examples(data, own, protocol.calibration_samples)
    check_targets(spec)
    used = spec.data is not None
    return PlannedStart(spec, request.task if used else None, own if used or trial else None, trial)


def start_protocol(request: StartRequest) -> Protocol:
    """The protocol with what the request changes."""
    overrides = [
        override
        if "." in override.partition("=")[0] or override.partition("=")[0] in Protocol.model_fields
        else f"{request.method}.{override}"
        for override in request.overrides
    ]
    protocol = read_protocol(request.protocol, overrides)
    changed: dict[str, Any] = {}
    if request.rank is not None:
        changed["rank"] = request.rank
    if request.alpha is not None:
        changed["alpha"] = request.alpha
    if request.target_modules:
        wanted = request.target_modules
        changed["target_modules"] = "all-linear" if wanted == ("all-linear",) else wanted
    if request.calibration_samples is not None:
        changed["calibration_samples"] = request.calibration_samples
    if request.max_length is not None:
        changed["calibration"] = protocol.calibration.model_copy(update={"max_length": request.max_length})
    return protocol.model_copy(update=changed).for_all(changed)


def data_of(request: StartRequest, model: ModelSpec, protocol: Protocol) -> tuple[DataSpec | None, UserData | None]:
    """The data that the request names; the user's own are read and checked.

    Raises:
        HubinitError: data that cannot be used with this model.
    """
    if request.task and request.data:
        raise HubinitError("Give --task or --data, not both.")
    if request.data is None and (request.data_config or request.data_split or request.columns):
        raise HubinitError("--data-config, --data-split and --columns say more about --data, which is not given.")
    if request.task:
        return task_data(request.task, model, protocol), None
    if KINDS[model.kind].labelled:
        raise HubinitError(f"{model.id} is an image model: give --task, whose classes its head is made for.")
    if request.data is None:
        return None, None
    own = own_data.read(request.data, config=request.data_config, split=request.data_split, columns=request.columns)
    return DataSpec(tasks=(own.name,), revisions=(own.revision,), own=own.identity), own


def task_data(group: str, model: ModelSpec, protocol: Protocol) -> DataSpec:
    """The training splits of a task or suite; the same as a benchmark run with this protocol trains on.

    Raises:
        HubinitError: unknown, or not for this kind of model.
    """
    tasks.check_kind(group, model)
    members = tasks.members(group)
    if KINDS[model.kind].labelled and len(members) > 1:
        raise HubinitError(f"'{group}' is a suite of image tasks, each with its own classes; choose one of them.")
    return data_spec(members, protocol, pinning(protocol))


def check_examples(data: DataSpec, own: UserData | None, asked: int | None) -> None:
    """Checks that there are as many examples as the user asked for; the data set of a task is only read to count them.

    Raises:
        HubinitError: there are fewer, or the data set cannot be had.
    """
    if asked is not None:
        check_samples(asked, len(own.rows) if own else tasks.training_size(data), ", ".join(data.tasks))


def check_methods(methods: Sequence[str]) -> list[str]:
    """The methods, `all` expanded.

    Raises:
        HubinitError: an unknown one, or one without a start point that two lines of plain PEFT rebuild.
    """
    expanded = expand_methods(methods)
    for name in expanded:
        if name in NO_ADAPTER:
            raise HubinitError(f"Method '{name}' has no adapter, and so no start point to make.")
        registry.get(name)
        if name in WITHOUT_LINES:
            raise HubinitError(f"Method '{name}' has no start point of its own: {WITHOUT_LINES[name]}.")
    return expanded
