"""`hubinit publish-inits`: start points for models × tasks × methods × ranks, published one by one, and their catalogue.

Everything is keyed by what it depends on: a start point that lies on disk is not computed again, one that is on the Hub is not
sent again, and its row is in the catalogue once. So an interrupted command goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from huggingface_hub import HfApi

from hubinit import methods as registry
from hubinit.adapters.calibrating import need_of
from hubinit.errors import HubError, HubinitError, first_line
from hubinit.hub import tables
from hubinit.hub.catalogue import CatalogueRow, catalogue_row
from hubinit.hub.outbox import deliver_rows
from hubinit.inits.make import Tell, load_base, make_start, pool_of, read_start
from hubinit.inits.plan import PlannedStart, check_examples, check_methods, task_data
from hubinit.inits.publish import publish_start, repo_of
from hubinit.models.base import Loaded
from hubinit.models.kinds import KINDS, start_of
from hubinit.records import Manifest
from hubinit.runs.costs import Stopwatch
from hubinit.runs.line import pass_of
from hubinit.runs.plan import check_options, chosen_model, groups_for, run_spec
from hubinit.runs.preflight import check_targets
from hubinit.runs.protocol import DEFAULT, read_protocol
from hubinit.runs.sweep import peers
from hubinit.specs import Dtype, RunSpec

CATALOGUE = "hubinit-catalogue"
MOST = 10_000  # start points of one command


@dataclass(frozen=True)
class MatrixRequest:
    """What the user asked for; `methods` may hold `all`, `tasks` suites."""

    models: tuple[str, ...]
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    ranks: tuple[int, ...]
    seed: int = 0
    calibration_samples: int | None = None
    dtype: Dtype = "auto"
    protocol: str = DEFAULT
    overrides: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What was published, and one sentence for everything that was not."""

    published: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def plan_matrix(request: MatrixRequest, on_lost: Callable[[str], None] = lambda reason: None) -> list[PlannedStart]:
    """All start points, those that share a base in memory and data next to each other.

    Methods that look at the weights only have one start per model and rank, whatever the tasks. A model that cannot be had
    costs its own start points only; `on_lost` is told why.

    Raises:
        HubinitError: an unknown or malformed name or option, a task of another kind than a model's, a rank above a layer, too
            many start points, or a Hub that does not answer.
    """
    methods = check_methods(request.methods)
    protocol = read_protocol(request.protocol, request.overrides)
    check_options(protocol, methods)
    if request.calibration_samples is not None:
        protocol = protocol.model_copy(update={"calibration_samples": request.calibration_samples})
    planned: dict[str, PlannedStart] = {}
    lost: HubError | None = None
    for name in request.models:
        try:
            model = chosen_model(name, request.dtype)
        except HubError as error:  # gated, missing, unreachable: the other models go on
            lost = error
            on_lost(str(error))
            continue
        groups = groups_for(request.tasks, model)
        many = len(request.models) * len(groups) * len(methods) * len(request.ranks)
        if many > MOST:
            raise HubinitError(
                f"This asks for {many:,} start points; one command makes at most {MOST:,}: choose fewer ranks, tasks or methods."
            )
        ranked = [protocol.model_copy(update={"rank": rank}).for_all(["rank"]) for rank in sorted(request.ranks)]
        for group in groups:
            data = task_data(group, model, protocol)
            for method in methods:
                specs = [start_of(run_spec(model, method, data, own)) for own in ranked]
                specs = [spec.model_copy(update={"seed": request.seed}) for spec in specs]
                check_targets(specs[-1])
                if specs[-1].calibration is not None:
                    check_examples(data, None, protocol.calibration_samples)
                for spec in specs:
                    planned.setdefault(spec.key, PlannedStart(spec, group if spec.data else None))
    if lost is not None and not planned:
        raise lost
    return sorted(planned.values(), key=shares)


def shares(start: PlannedStart) -> tuple[str, str, str]:
    """Start points with the same first two share a loaded base (images: with its head), with all three the data too."""
    spec = start.spec
    data = spec.data.key if spec.data else ""
    return spec.model.key, data if KINDS[spec.model.kind].labelled else "", data


@dataclass(frozen=True)
class Publishing:
    """Where start points go, and who is told.

    Attributes:
        namespace: user or organisation.
        private: whether new repos are private.
        command: for the cards.
        report: called as the work on one start point goes on.
        say: called with each line worth keeping.
    """

    namespace: str
    private: bool
    command: str
    report: Tell
    say: Callable[[str], None]
    api: HfApi = field(default_factory=HfApi)


def publish_matrix(planned: Sequence[PlannedStart], publishing: Publishing) -> Outcome:
    """Makes what is missing, publishes everything, and adds it to the catalogue after each group of shared data."""
    outcome = Outcome()
    for _, same_base in groupby(planned, key=lambda start: shares(start)[:2]):
        base = Base(publishing.report)
        for _, same_data in groupby(same_base, key=shares):
            group = list(same_data)
            rows = [row for start in group if (row := publish_safely(start, group, base, publishing, outcome))]
            add_to_catalogue(rows, publishing, outcome)
    return outcome


class Base:
    """A base model that is loaded when the first start point has to be made, and what that cost."""

    def __init__(self, report: Tell) -> None:
        self.report = report
        self.watch = Stopwatch()
        self._loaded: Loaded | None = None
        self._broken: HubinitError | None = None

    def loaded(self, spec: RunSpec) -> Loaded:
        """The model in memory."""
        if self._broken is not None:  # missing or gated for one start is missing for all
            raise self._broken
        if self._loaded is None:
            try:
                self._loaded = load_base(spec, self.watch, self.report)
            except HubinitError as error:
                self._broken = error
                raise
        return self._loaded


def publish_safely(
    start: PlannedStart, group: Sequence[PlannedStart], base: Base, publishing: Publishing, outcome: Outcome
) -> CatalogueRow | None:
    """Makes (unless it is made) and publishes one start point; what goes wrong costs this one only.

    Returns:
        Its row in the catalogue, or None when it failed.
    """
    try:
        manifest = read_start(start.default_folder, start.spec) or make_one(start, group, base, publishing)
        repo_id = repo_of(start, publishing.namespace)
        done = publish_start(
            publishing.api,
            start,
            manifest,
            start.default_folder,
            repo_id,
            private=publishing.private,
            replace=True,  # the name is ours, made from what is in it
        )
    except Exception as error:  # the boundary: one start must not end the matrix
        outcome.failures.append(f"{describe(start)}: {first_line(error)}.")
        publishing.say(outcome.failures[-1])
        return None
    outcome.published.append(repo_id)
    publishing.say(f"{describe(start)}: {done}")
    return catalogue_row(manifest, repo_id, registry.get(start.spec.method.name).start, start.suite)


def make_one(start: PlannedStart, group: Sequence[PlannedStart], base: Base, publishing: Publishing) -> Manifest:
    """Makes one start point; its calibration is shared with all of the group that can use it."""
    together = peers(other.spec for other in group).get(pass_of(start.spec), ())
    needs = [need_of(one.method, one.calibration) for one in together if one.calibration is not None]
    loaded = base.loaded(start.spec)
    watch = Stopwatch()
    watch.costs = dict(base.watch.costs)
    pool = pool_of(start, loaded, max((need.samples for need in needs), default=0))
    return make_start(
        start,
        loaded,
        pool,
        needs,
        start.default_folder,
        watch=watch,
        command=publishing.command,
        report=publishing.report,
    )


def add_to_catalogue(rows: Sequence[CatalogueRow], publishing: Publishing, outcome: Outcome) -> None:
    """Adds what was published to the catalogue of its namespace."""
    if not rows:
        return
    try:
        repo_id = f"{publishing.namespace}/{CATALOGUE}"
        publishing.say(str(deliver_rows(publishing.api, tables.CATALOGUE, rows, repo_id, private=publishing.private)))
    except (HubinitError, OSError) as error:
        outcome.failures.append(f"Catalogue: {first_line(error)}. The same command adds the rows later.")
        publishing.say(outcome.failures[-1])


def describe(start: PlannedStart) -> str:
    """A start point in a few words."""
    spec = start.spec
    return f"{spec.model.id.split('/')[-1]} {spec.method.name} r{spec.rank}" + (
        f" {start.group}" if start.group else ""
    )
