"""From what the user asks for to the list of runs, each with its content key, and what is already done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hubinit.errors import HubinitError, nearest
from hubinit.models.kinds import KINDS
from hubinit.records import ResultStore, RunResult
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Protocol, RunSpec

DEFAULT_SAMPLES = 256  # calibration examples where the method's source does not say


@dataclass(frozen=True)
class Request:
    """What the user asked for; None means the default that `plan` documents."""

    models: tuple[str, ...]
    methods: tuple[str, ...] = ("all",)
    tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    learning_rates: tuple[float, ...] | None = None
    rank: int | None = None
    preset: str = "default"
    overrides: tuple[str, ...] = ()
    calibration_samples: int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """A run to do, the evaluations asked of it, and the result that is already stored."""

    spec: RunSpec
    group: str  # the task or suite that it trains on
    evaluations: tuple[EvalSpec, ...]
    stored: RunResult | None = None

    @property
    def missing(self) -> tuple[EvalSpec, ...]:
        """Evaluations without a stored score."""
        return tuple(e for e in self.evaluations if self.stored is None or not self.stored.scored(e))

    @property
    def state(self) -> str:
        """`cached`: nothing to do; `evaluate`: trained, scores missing; `run`: everything to do.

        A diverged run is finished: the same inputs diverge again. A failed one is tried again.
        """
        if self.stored is None or self.stored.status == "failed":
            return "run"
        if self.stored.status == "diverged" or not self.missing:
            return "cached"
        return "evaluate"


def plan(request: Request, store: ResultStore, *, force: bool = False) -> list[PlannedRun]:
    """Expands a request into runs: models × task groups × methods × learning rates × seeds.

    Each entry of `tasks` is trained on and evaluated by itself: a task on its own training split, a suite of language tasks
    (`commonsense`) on the mixture of its tasks' training splits. `methods` may hold `all`: every registered adapter method.
    The base (`none`) has one run per model, whatever the learning rates and seeds. Revisions are resolved here, so that a
    changed model or data set is a new run.

    Raises:
        HubinitError: an unknown or malformed name, preset or option, or a Hub that does not answer.
    """
    from hubinit import tasks
    from hubinit.models import names

    protocol = read_protocol(request.preset, request.overrides)
    methods = expand_methods(request.methods)
    for name in protocol.methods:
        if name not in methods and name not in known_methods():
            raise HubinitError(
                f"The options of --set name the unknown method '{name}': {nearest(name, known_methods())}"
            )
    pin_task: Callable[[str], str | None] = cache(tasks.pin)
    planned: list[PlannedRun] = []
    for model_name in request.models:
        model = names.pin(names.resolve(model_name))
        for group in task_groups(request, model):
            members = tasks.members(group)
            evaluations = tuple(
                EvalSpec(task=name, revision=pin_task(name), limit=protocol.limit, shots=protocol.shots)
                for name in members
            )
            for spec in run_specs(model, members, methods, protocol, request, pin_task):
                stored = None if force else store.read(spec.key)
                planned.append(PlannedRun(spec, group, evaluations, stored))
    return merge_same_key(planned)


def task_groups(request: Request, model: ModelSpec) -> list[str]:
    """What each run of a model trains on.

    Raises:
        HubinitError: unknown task, one of another kind than the model's, or the untrained base of a labelled kind.
    """
    kind = KINDS[model.kind]
    if kind.labelled and "none" in request.methods:
        raise HubinitError(
            "Method 'none' has no score for image tasks: the classifier's head is untrained; leave it out."
        )
    return groups_for(request.tasks or (kind.default_suite,), model)


def groups_for(tasks: Sequence[str], model: ModelSpec) -> list[str]:
    """Tasks and suites for a model; a suite of a labelled kind task by task, because each has classes of its own.

    Raises:
        HubinitError: an unknown task, or one of another kind than the model's.
    """
    groups: list[str] = []
    for group in tasks:
        members = fitting_tasks(group, model)
        groups += members if KINDS[model.kind].labelled else (group,)
    return list(dict.fromkeys(groups))


def fitting_tasks(group: str, model: ModelSpec) -> tuple[str, ...]:
    """The tasks of a suite, or the one of that name: all of the model's kind.

    Raises:
        HubinitError: an unknown task, or one of another kind.
    """
    from hubinit import tasks

    members = tasks.members(group)
    for name in members:
        if tasks.get(name).kind != model.kind:
            raise HubinitError(
                f"'{name}' is a {tasks.get(name).kind} task and {model.id} a {model.kind} model; choose other tasks for it."
            )
    return members


def data_spec(members: Sequence[str], protocol: Protocol, pin_task: Callable[[str], str | None]) -> DataSpec:
    """The training splits of tasks at the revisions that `pin_task` gives, cut as the protocol says."""
    return DataSpec(
        tasks=tuple(members),
        revisions=tuple(pin_task(name) for name in members),
        samples=protocol.samples,
        validation_samples=protocol.validation_samples,
    )


def run_specs(
    model: ModelSpec,
    members: Sequence[str],
    methods: Sequence[str],
    protocol: Protocol,
    request: Request,
    pin_task: Callable[[str], str | None],
) -> list[RunSpec]:
    """The runs of one model on one task group."""
    data = data_spec(members, protocol, pin_task)
    specs = []
    for name in methods:
        if name == "none":
            specs.append(RunSpec(model=model, method=MethodSpec(name="none"), rank=0, alpha=0))
            continue
        for learning_rate in request.learning_rates or protocol.learning_rates:
            for seed in request.seeds if request.seeds is not None else protocol.seeds:
                spec = run_spec(
                    model, name, data, protocol, rank=request.rank, samples=request.calibration_samples, seed=seed
                )
                specs.append(spec.model_copy(update={"learning_rate": learning_rate}))
    return specs


def run_spec(
    model: ModelSpec,
    name: str,
    data: DataSpec | None,
    protocol: Protocol,
    *,
    rank: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> RunSpec:
    """A run as a protocol has it, but for its learning rate. `rank` and `samples` (of the calibration) win over the protocol.

    Raises:
        HubinitError: an unknown method, or an option that it does not take.
    """
    method = method_spec(name, protocol)
    rank = rank or protocol.rank
    return RunSpec(
        model=model,
        method=method,
        rank=rank,
        alpha=protocol.alpha if protocol.alpha is not None else 2 * rank,
        rslora=protocol.rslora,
        target_modules=protocol.target_modules,
        data=data,
        recipe=protocol.recipe,
        calibration=calibration_spec(method, protocol, samples),
        seed=seed,
    )


def merge_same_key(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Joins runs that are the same (the base, asked for by several task groups) into one with all evaluations."""
    merged: dict[str, PlannedRun] = {}
    for run in planned:
        before = merged.get(run.spec.key)
        if before is None:
            merged[run.spec.key] = run
        else:
            evaluations = tuple(dict.fromkeys((*before.evaluations, *run.evaluations)))
            merged[run.spec.key] = PlannedRun(run.spec, f"{before.group}, {run.group}", evaluations, run.stored)
    return list(merged.values())


def method_spec(name: str, protocol: Protocol) -> MethodSpec:
    """The method with its checked options; only those that differ from the defaults, so that a new option changes no key."""
    from hubinit import methods

    method = methods.get(name)
    options = methods.parse_options(method, protocol.methods.get(name, {}))
    return MethodSpec(name=name, options=options.model_dump(mode="json", exclude_defaults=True), version=method.version)


def calibration_spec(method: MethodSpec, protocol: Protocol, samples: int | None) -> CalibrationSpec | None:
    """The calibration that the method needs: None for weight-only methods, so that it is no part of their key."""
    from hubinit import methods

    registered = methods.get(method.name)
    if not registered.statistics(methods.parse_options(registered, method.options)):
        return None
    chosen = samples or protocol.calibration_samples or registered.samples or DEFAULT_SAMPLES
    return protocol.calibration.model_copy(update={"samples": chosen})


def known_methods() -> list[str]:
    """Everything that `--methods` takes besides `peft:<type>`."""
    from hubinit.methods import METHODS

    return ["all", "none", *METHODS]


def expand_methods(names: Sequence[str]) -> list[str]:
    """Replaces `all` by every registered adapter method (not `none`, not `peft:*`) and checks the rest."""
    from hubinit import methods

    expanded: list[str] = []
    for name in names:
        if name == "all":
            expanded += list(methods.METHODS)
            continue
        if name != "none" and not name.startswith("peft:") and name not in methods.METHODS:
            raise HubinitError(f"Unknown method '{name}': {nearest(name, known_methods())}")
        expanded.append(name)
    return list(dict.fromkeys(expanded))


def read_protocol(preset: str, overrides: Sequence[str] = ()) -> Protocol:
    """Reads a preset by name or a YAML file by path and applies `key=value` overrides.

    A key is a field (`limit=100`), a dotted field (`recipe.steps=40`) or a method's option (`lora-da.preset=paper`).

    Raises:
        HubinitError: unknown preset or key, or a value of the wrong type.
    """
    folder = files("hubinit") / "registry" / "protocols"
    presets = sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if preset in presets:
        text = (folder / f"{preset}.yaml").read_text(encoding="utf-8")
    elif Path(preset).suffix in {".yaml", ".yml"} and Path(preset).is_file():
        try:
            text = Path(preset).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise HubinitError(f"Preset '{preset}' is not UTF-8 text; save it as UTF-8.") from error
    else:
        raise HubinitError(f"There is no preset or YAML file '{preset}': {nearest(preset, presets)}")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise HubinitError(f"Preset '{preset}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise HubinitError(f"Preset '{preset}' is no mapping; write lines such as 'rank: 16'.")
    for override in overrides:
        apply_override(values, override)
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = nearest(str(first["loc"][-1]), list(Protocol.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise HubinitError(
            f"Setting '{where}' of preset '{preset}' is wrong: {first['msg']}. {hint}".strip()
        ) from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Applies one `key=value` (the value is YAML) to the nested mapping."""
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise HubinitError(f"--set wants key=value, for example recipe.steps=40, not '{override}'.")
    if len(path) > 1 and path[0] not in Protocol.model_fields:
        path = ["methods", *path]  # a method's option: lora-da.preset=paper
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise HubinitError(f"--set {override}: '{part}' is a single value and has no fields.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HubinitError(f"--set {override}: '{text}' is not valid YAML.") from error
    values[path[-1]] = parse_number(value) if isinstance(value, str) else value


def parse_number(text: str) -> float | str:
    """YAML reads `1e-3` as text; this reads it as the number it is."""
    try:
        return float(text)
    except ValueError:
        return text
