"""From what the user asks for to the list of runs, each with its content key, and what is already done."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import RevisionNotFoundError

from hubinit import methods as registry
from hubinit import tasks
from hubinit.errors import HubError, HubinitError, nearest
from hubinit.models import names
from hubinit.models.dtype import choose_dtype
from hubinit.models.kinds import KINDS
from hubinit.models.quantising import check_quantisation
from hubinit.records import ResultStore
from hubinit.remote import is_transient
from hubinit.runs.matching import describe_matches, match_rank
from hubinit.runs.pairs import check_settings, fit_quantised, pair_optimisers
from hubinit.runs.protocol import DEFAULT, check_protocol, read_protocol
from hubinit.runs.stored import Stored, StoredIndex
from hubinit.scoring.judge import find_judge
from hubinit.specs import (
    DEFAULT_OPTIMISER,
    FULL,
    NO_ADAPTER,
    CalibrationSpec,
    DataSpec,
    Dtype,
    EvalSpec,
    MethodSpec,
    ModelSpec,
    Protocol,
    Quantisation,
    RunSpec,
)

DEFAULT_SAMPLES = 256  # calibration examples where the method's source does not say
MOST_RUNS = 100_000  # of one plan
PinTask = Callable[[str], str | None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the user asked for; None means the default that `plan` documents."""

    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    eval_tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    learning_rates: tuple[float, ...] | None = None
    optimisers: tuple[str, ...] | None = None
    rank: int | None = None
    dtype: Dtype = "auto"
    quantize: Quantisation | None = None
    protocol: str = DEFAULT
    overrides: tuple[str, ...] = ()
    calibration_samples: int | None = None
    judge: str | None = None
    shifts: dict[str, int] | None = None  # of a search's grids, by method and optimiser: see `hubinit.runs.fair.ladder`

    def read_protocol(self) -> Protocol:
        """The protocol with everything that the request changes in it.

        Raises:
            HubinitError: an unknown protocol, or a value that does not fit.
        """
        protocol = read_protocol(self.protocol, self.overrides)
        changed = {
            "rank": self.rank,
            "optimisers": self.optimisers,
            "learning_rates": self.learning_rates,
            "seeds": self.seeds,
            "calibration_samples": self.calibration_samples,
        }
        values = {name: value for name, value in changed.items() if value is not None}
        return check_protocol(protocol.for_all(values).model_dump(exclude_unset=True) | values, "the command")

    def completed(self) -> "Request":
        """The request with the models and methods that it leaves to the protocol.

        Raises:
            HubinitError: as `read_protocol`, or there is no model.
        """
        if self.models and self.methods:
            return self
        protocol = self.read_protocol()
        if not (models := self.models or protocol.models):
            raise HubinitError(f"Protocol '{self.protocol}' names no base model; add --models, such as llama3-8b.")
        return replace(self, models=models, methods=self.methods or protocol.compare or ("all",))


@dataclass(frozen=True)
class PlannedRun:
    """A run to do, the evaluations asked of it, and what of a result is already stored."""

    spec: RunSpec
    group: str  # the task or suite that it trains on
    evaluations: tuple[EvalSpec, ...]
    stored: Stored | None = None

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


def plan(
    request: Request,
    store: ResultStore,
    *,
    force: bool = False,
    unasked: bool = False,
    on_lost: Tell = lambda reason: None,
    on_note: Tell = lambda note: None,
) -> list[PlannedRun]:
    """Expands a request into runs: models × task groups × methods × optimisers × learning rates × seeds.

    Each entry of `tasks` is trained on by itself: a task on its own training split, a suite of language tasks (`commonsense`) on
    the mixture of its tasks' training splits. It is scored on the same tasks, or on `eval_tasks`. Without `tasks` both are the
    protocol's, where it has some. `methods` may hold `all`:
    every registered adapter method, less the optimisers that do not fit one. The base of a
    language model (`none`) has one run, whatever the optimisers, learning rates and seeds; that of a labelled kind has a fresh
    head, which AdamW trains alone at every learning rate and seed. Revisions and floating-point types are resolved here: a
    changed model or data set is a new run.

    Args:
        request: what the user asked for.
        store: what is done already.
        force: plan what is done as if it were not.
        unasked: for looking only: a registered model, and data, that no Hub can be asked for are planned without a revision.
        on_lost: told why a model or training data cannot be had, which costs the runs with them only.
        on_note: told of each optimiser that is left out for a method of `all`, of each stored result that cannot be read (its
            run is planned again), and of each commit of a data set that the protocol pins and this Hub does not have.

    Raises:
        HubinitError: an unknown or malformed name, protocol or option, an optimiser that does not fit a named method, or
            nothing that can be had.
    """
    request = request.completed()
    protocol = request.read_protocol()
    methods = expand_methods(request.methods)
    check_options(protocol, methods)
    check_settings(protocol)
    if request.quantize is not None:
        methods = fit_quantised(methods, request.methods, on_note)
    pairs = pair_optimisers(methods, protocol.optimisers, request.methods, on_note)
    rates = sum(len(protocol.for_method(method).learning_rates) for method, _ in pairs)
    runs = len(request.models) * rates * len(protocol.seeds)
    if runs > MOST_RUNS:
        raise HubinitError(
            f"That is {runs:,} runs for each task; a plan holds {MOST_RUNS:,} at most. Ask for fewer seeds."
        )
    unreachable: list[HubError] = []
    pin_task = pinning(protocol, on_note)
    if unasked:
        pin_task = lenient(pin_task, unreachable, on_note)
    dtype = request.dtype if request.dtype != "auto" else protocol.dtype
    planned: list[PlannedRun] = []
    index = StoredIndex(store)
    lost: HubError | None = None
    for name in request.models:
        model = names.resolve(name)
        try:
            if unreachable and names.known_config(model.id):
                raise unreachable[0]
            model = chosen_model(name, dtype, request.quantize)
        except HubError as error:  # gated, missing, unreachable: the other models go on
            if not (unasked and names.known_config(model.id)):
                lost = error
                on_lost(str(error))
                continue
            if is_transient(error.__cause__):
                unreachable.append(error)
            model = chosen_model(name, dtype, request.quantize, pin=lambda spec: spec)
            on_note(f"Not checked: access to {model.id}, its newest commit, and so what is done already. {error}")
        for group in task_groups(request, model, protocol):
            evaluations = evaluations_of(group, request, model, protocol, pin_task)
            try:
                specs = run_specs(model, tasks.members(group), pairs, protocol, pin_task)
            except HubError as error:  # its training data: what does not train on them goes on
                lost = error
                on_lost(str(error))
                untrained = [pair for pair in pairs if pair[0] == "none" and not KINDS[model.kind].labelled]
                specs = run_specs(model, (), untrained, protocol, pin_task)
            for spec in specs:
                stored = None if force else index.find(spec.key, on_note)
                planned.append(PlannedRun(spec, group, evaluations, stored))
    if lost is not None and not planned:
        raise lost
    if protocol.match_parameters:
        for model in dict.fromkeys(run.spec.model for run in planned):
            for line in describe_matches((run.spec for run in planned), plain_spec(model, None, protocol)):
                on_note(line)
    index.save()
    return merge_same_key(planned)


def chosen_model(
    name: str,
    dtype: Dtype = "auto",
    quantize: Quantisation | None = None,
    pin: Callable[[ModelSpec], ModelSpec] | None = None,
) -> ModelSpec:
    """The model that a name means, at one revision, in one floating-point type, and perhaps quantised.

    Raises:
        HubinitError: an unknown name, or a Hub that does not answer.
    """
    model = (pin or names.pin)(names.resolve(name))
    if dtype != "auto":
        model = model.model_copy(update={"dtype": dtype})
    if quantize is not None:
        model = model.model_copy(update={"quantize": quantize})
        check_quantisation(model)
    return model.model_copy(update={"dtype": choose_dtype(model)})


def pinning(protocol: Protocol, on_note: Tell = lambda note: None) -> PinTask:
    """What finds the commit of a task's data set: the one that the protocol pins, where this Hub has it, else the newest."""
    newest = cache(tasks.pin)
    note = cache(on_note)  # once for a data set, however many tasks are made of it

    @cache
    def pin(name: str) -> str | None:
        dataset = tasks.get(name).dataset
        if (wanted := protocol.revisions.get(dataset)) is None:
            return newest(name)
        try:
            return tasks.pin(name, wanted)
        except HubError as error:
            if not (is_offline_mode() or isinstance(error.__cause__, RevisionNotFoundError)):
                raise
        found = newest(name)
        note(
            f"The protocol pins {dataset} at {wanted[:12]}, which is not here; {str(found)[:12]} is used, and results say so."
        )
        return found

    return pin


def lenient(pin_task: PinTask, unreachable: list[HubError], on_note: Tell) -> PinTask:
    """As `pin_task`, but data that cannot be had have no commit, and that is said.

    Args:
        pin_task: what asks.
        unreachable: why the Hub cannot be reached, once that is known: then it is not asked again. What is found is added.
        on_note: told.
    """

    @cache
    def pin(name: str) -> str | None:
        if unreachable:
            return None
        try:
            return pin_task(name)
        except HubError as error:
            if is_transient(error.__cause__):
                unreachable.append(error)
            on_note(f"Not checked: the data of {name}. {error}")
            return None

    return pin


def check_options(protocol: Protocol, methods: Sequence[str]) -> None:
    """Refuses options for a method that does not exist.

    Raises:
        HubinitError: there is one; the message names the nearest method or part of a protocol.
    """
    for name in (*protocol.methods, *protocol.per_method):
        if name not in methods and name not in known_methods():
            hint = nearest(name, [*Protocol.model_fields, *known_methods()])
            raise HubinitError(f"--set names '{name}', which is neither a method nor a part of a protocol: {hint}")


def task_groups(request: Request, model: ModelSpec, protocol: Protocol) -> list[str]:
    """What each run of a model trains on. A labelled model has the classes of one task, so a suite is one run per task.

    Raises:
        HubinitError: unknown task, or one of another kind than the model's.
    """
    return groups_for(request.tasks or tuple(protocol.tasks) or (KINDS[model.kind].default_suite,), model)


def groups_for(wanted: Sequence[str], model: ModelSpec) -> list[str]:
    """Tasks and suites for a model; a suite of a labelled kind task by task.

    Raises:
        HubinitError: an unknown task, or one of another kind than the model's.
    """
    groups: list[str] = []
    for group in wanted:
        tasks.check_kind(group, model)
        groups += tasks.members(group) if KINDS[model.kind].labelled else (group,)
    return list(dict.fromkeys(groups))


def evaluations_of(
    group: str, request: Request, model: ModelSpec, protocol: Protocol, pin_task: PinTask
) -> tuple[EvalSpec, ...]:
    """What the runs of a group are scored on. Data that cannot be had stay in: the run will say so, and be `partial`.

    Raises:
        HubinitError: `eval_tasks` that this model, or a head with the classes of the group, cannot be scored on, or a task that
            wants a judge where there is none.
    """
    pinned = protocol.tasks.get(group) if request.tasks is None else None
    wanted = request.eval_tasks or pinned or (group,)
    for scored in wanted:
        tasks.check_kind(scored, model)
    members = tuple(name for scored in wanted for name in tasks.members(scored))
    if KINDS[model.kind].labelled and set(members) - {group}:
        raise HubinitError(
            f"A head with the classes of '{group}' can be scored on '{group}' only; leave --eval-tasks out."
        )
    return tuple(
        EvalSpec(
            task=name,
            revision=revision_of(name, pin_task),
            limit=protocol.limit,
            shots=tasks.shots(name, protocol),
            judge=find_judge(request.judge).name if tasks.get(name).judged else None,
        )
        for name in dict.fromkeys(members)
    )


def revision_of(name: str, pin_task: PinTask) -> str | None:
    """The commit of a task's data set; None where it cannot be had."""
    with suppress(HubError):
        return pin_task(name)
    return None


def run_specs(
    model: ModelSpec, members: Sequence[str], pairs: Sequence[tuple[str, str]], protocol: Protocol, pin_task: PinTask
) -> list[RunSpec]:
    """The runs of one model on one task group; `pairs` are methods with their optimisers."""
    trains = KINDS[model.kind].labelled or {name for name, _ in pairs} - {"none"}
    data = data_spec(members, protocol, pin_task) if trains else None
    specs = []
    for name, optimiser in pairs:
        own = protocol.for_method(name)
        if name in NO_ADAPTER:
            whole = base_spec(model, data, own) if name == "none" else full_spec(model, data, own)
        else:
            whole = run_spec(model, name, data, protocol)
        if whole.recipe is None:
            specs.append(whole)
            continue
        tasks.check_trainable(members)
        whole = whole.model_copy(update={"recipe": own.recipe_with(optimiser)})
        if protocol.matches(name):
            whole = match_rank(whole, plain_spec(model, data, protocol))
        specs += [
            whole.model_copy(update={"learning_rate": learning_rate} | own.seeds_with(seed))
            for learning_rate in own.learning_rates
            for seed in own.seeds
        ]
    return specs


def base_spec(model: ModelSpec, data: DataSpec | None, protocol: Protocol) -> RunSpec:
    """The run of method `none`: the base as it is or, for a labelled kind, a linear probe with everybody's data and recipe."""
    spec = RunSpec(model=model, method=MethodSpec(name="none"), rank=0, alpha=0)
    if not KINDS[model.kind].labelled:
        return spec
    return spec.model_copy(update={"data": data, "recipe": protocol.recipe})


def run_spec(model: ModelSpec, name: str, data: DataSpec | None, protocol: Protocol) -> RunSpec:
    """A run as the protocol has it for this method, but for its optimiser, learning rate and seed.

    Raises:
        HubinitError: an unknown method, or an option that it does not take.
    """
    protocol = protocol.for_method(name)
    method = method_spec(name, protocol)
    return RunSpec(
        model=model,
        method=method,
        rank=protocol.rank,
        alpha=protocol.alpha_or_default,
        rslora=protocol.rslora,
        target_modules=protocol.target_modules,
        data=data,
        recipe=protocol.recipe,
        calibration=calibration_spec(method, protocol),
    )


def plain_spec(model: ModelSpec, data: DataSpec | None, protocol: Protocol) -> RunSpec:
    """The run of plain LoRA with AdamW, which the parameters of others are compared to."""
    own = protocol.for_method("lora")
    return run_spec(model, "lora", data, protocol).model_copy(update={"recipe": own.recipe_with(DEFAULT_OPTIMISER)})


def full_spec(model: ModelSpec, data: DataSpec | None, protocol: Protocol) -> RunSpec:
    """A run that trains all weights, but for its learning rate and seed: what concerns adapters is not part of it."""
    return RunSpec(model=model, method=MethodSpec(name=FULL), rank=0, alpha=0, data=data, recipe=protocol.recipe)


def data_spec(members: Sequence[str], protocol: Protocol, pin_task: PinTask = tasks.pin) -> DataSpec:
    """The training splits of some tasks, as a run with this protocol trains on them."""
    return DataSpec(
        tasks=tuple(members),
        revisions=tuple(pin_task(name) for name in members),
        samples=protocol.samples,
        validation_samples=protocol.validation_samples,
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
            merged[run.spec.key] = PlannedRun(
                run.spec, ", ".join(dict.fromkeys((*before.group.split(", "), run.group))), evaluations, run.stored
            )
    return list(merged.values())


def method_spec(name: str, protocol: Protocol) -> MethodSpec:
    """The method with its checked options; only those that differ from the defaults, so that a new option changes no key."""
    method = registry.get(name)
    options = registry.parse_options(method, protocol.methods.get(name, {}))
    return MethodSpec(name=name, options=options.model_dump(mode="json", exclude_defaults=True), version=method.version)


def calibration_spec(method: MethodSpec, protocol: Protocol) -> CalibrationSpec | None:
    """The calibration that the method needs: None for weight-only methods, so that it is not part of their key."""
    registered = registry.get(method.name)
    if not registered.statistics(registry.parse_options(registered, method.options)):
        return None
    chosen = protocol.calibration_samples or registered.samples or DEFAULT_SAMPLES
    return protocol.calibration.model_copy(update={"samples": chosen})


def known_methods() -> list[str]:
    """Everything that `--methods` takes besides `peft:<type>`."""
    return ["all", *NO_ADAPTER, *registry.METHODS]


def expand_methods(wanted: Sequence[str]) -> list[str]:
    """Replaces `all` by every registered adapter method (not `none`, `full` or `peft:*`) and checks the rest."""
    expanded: list[str] = []
    for name in wanted:
        if name == "all":
            expanded += registry.METHODS
            continue
        if name not in NO_ADAPTER and not name.startswith("peft:") and name not in registry.METHODS:
            raise HubinitError(f"Unknown method '{name}': {nearest(name, known_methods())}")
        expanded.append(name)
    return list(dict.fromkeys(expanded))
