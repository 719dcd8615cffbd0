"""`hubinit publish-inits`: start points for models × tasks × methods × ranks, published one by one, and their catalogue.

Everything is keyed by what it depends on: a start point that lies on disk is not computed again, one that is on the Hub is not
sent again, and its row is in the catalogue once. So an interrupted command goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from huggingface_hub import HfApi

from hubinit.errors import HubinitError, first_line
from hubinit.inits.make import Report, finished, load_base, make_start, pool_of
from hubinit.inits.plan import PlannedStart, checked_methods, start_spec, task_data
from hubinit.records import Manifest
from hubinit.runs.costs import Stopwatch
from hubinit.runs.protocol import read_protocol
from hubinit.specs import ModelSpec

if TYPE_CHECKING:
    from hubinit.hub.tables import CatalogueRow
    from hubinit.models.base import Loaded

CATALOGUE = "hubinit-catalogue"


@dataclass(frozen=True)
class MatrixRequest:
    """What the user asked for; `methods` may hold `all`, `tasks` suites."""

    models: tuple[str, ...]
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    ranks: tuple[int, ...]
    seed: int = 0
    calibration_samples: int | None = None
    preset: str = "default"
    overrides: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What was published, and one sentence for everything that was not."""

    published: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def plan_matrix(request: MatrixRequest) -> list[PlannedStart]:
    """All start points, those that share a base in memory and data next to each other.

    Methods that look at the weights only have one start per model and rank, whatever the tasks. A task of another kind than
    a model's is left out for it; a model for which none is left is an error.

    Raises:
        HubinitError: an unknown or malformed name or option, or a Hub that does not answer.
    """
    from hubinit.models import names

    methods = checked_methods(request.methods)
    protocol = read_protocol(request.preset, request.overrides)
    planned: dict[str, PlannedStart] = {}
    for name in request.models:
        model = names.pin(names.resolve(name))
        groups = groups_for(request.tasks, model)
        data = {group: task_data(group, model, protocol) for group in groups}
        for rank in request.ranks:
            ranked = protocol.model_copy(update={"rank": rank})
            for group in groups:
                for method in methods:
                    samples = request.calibration_samples
                    spec = start_spec(model, method, data[group], ranked, seed=request.seed, samples=samples)
                    planned.setdefault(spec.key, PlannedStart(spec, group if spec.data else None))
    return sorted(planned.values(), key=shares)


def groups_for(tasks: Sequence[str], model: ModelSpec) -> list[str]:
    """The tasks and suites for this kind of model; image tasks one by one, because each has classes of its own.

    Raises:
        HubinitError: unknown names, or none for this kind of model.
    """
    from hubinit import tasks as registry

    fitting = [group for group in tasks if all(registry.get(t).kind == model.kind for t in registry.members(group))]
    if not fitting:
        raise HubinitError(f"{model.id} is a {model.kind} model, and none of the tasks is for one; add one to --tasks.")
    if model.kind == "language":
        return fitting
    return list(dict.fromkeys(name for group in fitting for name in registry.members(group)))


def shares(start: PlannedStart) -> tuple[str, str, str]:
    """Start points with the same first two share a loaded base (images: with its head), with all three the data too."""
    spec = start.spec
    data = spec.data.key if spec.data else ""
    return spec.model.key, data if spec.model.kind == "vision" else "", data


def publish_matrix(
    planned: Sequence[PlannedStart],
    namespace: str,
    *,
    private: bool,
    command: str,
    report: Report,
    say: Callable[[str], None],
) -> Outcome:
    """Makes what is missing, publishes everything, and adds it to the catalogue after each group of shared data.

    Args:
        planned: from `plan_matrix`.
        namespace: user or organisation.
        private: whether new repos are private.
        command: for the cards.
        report: called as the work on one start point goes on.
        say: called with each line worth keeping.
    """
    from hubinit.hub import outbox
    from hubinit.hub.tables import CATALOGUE as TABLE

    api, outcome = HfApi(), Outcome()
    for _, same_base in groupby(planned, key=lambda start: shares(start)[:2]):
        base: Loaded | None = None
        watch = Stopwatch()
        for _, same_data in groupby(same_base, key=shares):
            group, rows = list(same_data), []
            for start in group:
                try:
                    manifest = finished(start.default_folder, start.spec)
                    if manifest is None:
                        base = base or load_base(start.spec, watch, report)
                        manifest = make_one(start, group, base, watch, command, report)
                    row, line = publish_one(api, start, manifest, namespace, private=private)
                except (HubinitError, OSError, torch.OutOfMemoryError) as error:  # costs this one only
                    outcome.failures.append(f"{describe(start)}: {first_line(error)}.")
                    say(outcome.failures[-1])
                    continue
                rows.append(row)
                outcome.published.append(row.repo)
                say(f"{describe(start)}: {line}")
            if rows:
                try:
                    say(str(outbox.deliver_rows(api, TABLE, rows, f"{namespace}/{CATALOGUE}", private=private)))
                except (HubinitError, OSError) as error:
                    outcome.failures.append(f"Catalogue: {first_line(error)}. The same command adds the rows later.")
                    say(outcome.failures[-1])
    return outcome


def make_one(
    start: PlannedStart,
    group: Sequence[PlannedStart],
    base: "Loaded",
    loading: Stopwatch,
    command: str,
    report: Report,
) -> Manifest:
    """Makes one start point; its calibration is shared with all of the group that can use it."""
    from hubinit.calibration.shared import need_of

    settings = start.spec.calibration
    needs = [
        need_of(other.spec.method, other.spec.calibration)
        for other in group
        if settings is not None
        and other.spec.calibration is not None
        and other.spec.calibration.model_copy(update={"samples": settings.samples}) == settings
    ]
    watch = Stopwatch()
    watch.costs = dict(loading.costs)
    pool = pool_of(start, base, max((need.samples for need in needs), default=0))
    return make_start(start.spec, base, pool, needs, start.default_folder, watch=watch, command=command, report=report)


def publish_one(
    api: HfApi, start: PlannedStart, manifest: Manifest, namespace: str, *, private: bool
) -> tuple["CatalogueRow", str]:
    """Publishes one start point.

    Returns:
        Its row in the catalogue, and where it went.
    """
    from hubinit import methods
    from hubinit.hub.outbox import deliver
    from hubinit.hub.publication import base_licence, of_adapter, repo_name
    from hubinit.hub.tables import catalogue_row

    spec = start.spec
    suite = start.group if spec.data and len(spec.data.tasks) > 1 else None
    repo_id = repo_name(spec, "initialised", namespace, suite)
    publication = of_adapter(
        manifest.result,
        start.default_folder,
        "initialised",
        repo_id,
        licence=base_licence(api, spec),
    )
    done = deliver(api, publication, private=private)
    return catalogue_row(manifest, repo_id, methods.get(spec.method.name).start, suite), str(done)


def describe(start: PlannedStart) -> str:
    """A start point in a few words."""
    spec = start.spec
    return f"{spec.model.id.split('/')[-1]} {spec.method.name} r{spec.rank}" + (
        f" {start.group}" if start.group else ""
    )
