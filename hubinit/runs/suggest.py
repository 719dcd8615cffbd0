"""`--suggest-lr`: the learning rates of a plan moved to where the curvature at its starts suggests.

Without a search every method still has the same rates, because a comparison wants that: the grid keeps its width and its number
of rates, and its middle moves to the middle of what all starts suggest. A search, which goes beyond its grid where that is
needed, begins for each method where its own start suggests (`hubinit.runs.fair`). Suggestions are kept beside the results, since
another grid would be other runs.
"""

import json
import math
from collections.abc import Callable, Sequence
from statistics import geometric_mean, median
from typing import Any

from hubinit import adapters, tasks
from hubinit.adapters.calibrating import need_of
from hubinit.errors import HubinitError
from hubinit.models import base
from hubinit.models.base import Loaded
from hubinit.paths import write_atomically
from hubinit.records import ResultStore
from hubinit.runs.costs import Stopwatch
from hubinit.runs.line import pass_of
from hubinit.runs.pairs import name_of
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stages import attach_start, calibrate_start
from hubinit.runs.training import Pool, set_head
from hubinit.specs import NO_ADAPTER, RunSpec
from hubinit.training.curvature import EXAMPLES, suggest_learning_rate

FILE = "suggestions.json"  # in the folder of the results: by key of the run at rate 0


def move_grid(rates: Sequence[float], suggested: Sequence[float]) -> tuple[float, ...]:
    """The same grid elsewhere on the logarithmic axis: its geometric mean at the median of the suggestions.

    Args:
        rates: above 0, in any order, which is kept.
        suggested: one rate per start.

    Returns:
        Rates with two significant digits, at most 1.
    """
    factor = math.exp(median(map(math.log, suggested))) / geometric_mean(rates)
    return tuple(float(f"{min(1.0, factor * rate):.1e}") for rate in rates)


def suggest_rates(
    planned: Sequence[PlannedRun], store: ResultStore, on_note: Callable[[str], None] = lambda note: None
) -> dict[str, float]:
    """What the start of each method (with each optimiser) of a plan suggests, at its first seed.

    Args:
        planned: of one model and one task group.
        store: has the suggestions that were made before, and keeps the calibrations.
        on_note: told of each suggestion, and why a start has none.

    Returns:
        Rates by `method optimiser`.

    Raises:
        HubinitError: several models or task groups, or no start with a suggestion.
    """
    specs = [
        run.spec.model_copy(update={"learning_rate": 0.0})
        for run in planned
        if run.spec.method.name not in NO_ADAPTER and run.spec.recipe is not None
    ]
    if len({(spec.model.key, spec.data.key if spec.data else "") for spec in specs}) != 1:
        raise HubinitError("--suggest-lr takes one model, one task or suite, and at least one adapter method.")
    starts = {name_of(spec): spec for spec in reversed(specs)}  # the first seed of each
    path = store.root / FILE
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    loaded: Loaded | None = None
    rates: dict[str, float] = {}
    for name, spec in reversed(starts.items()):
        if spec.key not in kept:
            try:
                loaded = loaded or base.load(spec.model, labels=tasks.head_labels(spec))
                on_note(f"measuring the curvature at the start of {name} …")
                kept[spec.key] = measure(spec, loaded, list(starts.values()), store)
            except HubinitError as error:
                on_note(f"{name}: {error}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(kept, indent=1) + "\n")
        rates[name] = kept[spec.key]["rate"]
        on_note(f"{name}: the curvature suggests {rates[name]:.1e}")
    if not rates:
        raise HubinitError("No start suggests a learning rate; give --lrs without --suggest-lr.")
    return rates


def measure(spec: RunSpec, loaded: Loaded, together: Sequence[RunSpec], store: ResultStore) -> dict[str, Any]:
    """The suggestion of one start; the statistics it needs come from the pass that its peers in `together` share."""
    assert spec.data is not None and spec.recipe is not None
    set_head(spec, loaded)
    pool: Pool = tasks.training_examples(spec.data, spec.seed)[0]
    calibration = None
    if spec.calibration is not None:
        peers = [peer for peer in together if pass_of(peer) == pass_of(spec)]
        calibration = calibrate_start(
            spec,
            loaded,
            tasks.training_examples(spec.data, spec.calibration.seed)[0],
            [need_of(peer.method, peer.calibration) for peer in peers if peer.calibration is not None],
            store.root / "calibrations",
            Stopwatch(),
            on_batch=lambda done, total: None,
            on_plan=lambda plan: None,
        )
    try:
        model = attach_start(spec, loaded, calibration, population=len(pool))
        found = suggest_learning_rate(model, loaded.processor, pool[:EXAMPLES], spec.recipe)
        return {"method": spec.method.name, "optimiser": spec.recipe.optimiser_label, **vars(found)}
    finally:
        adapters.detach(loaded.model)
