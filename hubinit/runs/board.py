"""The methods of one model and training set while their learning rates are searched: what is known, and what more would take."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from hubinit.records import ResultStore, RunResult, Stage
from hubinit.runs.budget import seconds_of, spent
from hubinit.runs.decisions import path_of
from hubinit.runs.fair import Tried, Walk, ladder, shorten, walk
from hubinit.runs.pairs import name_of
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import read_stored
from hubinit.specs import Protocol, RunSpec, Search

NO_SHIFTS: Mapping[str, int] = {}


class Board:
    """What is known of the runs of a comparison; a method is named by its place among the templates.

    Attributes:
        known: results by key, of this command's rounds only; None where a run left none.
        length: method and share of the training of each known run, by key.
        scored: keys of the runs that were given to be scored.
        ended: methods whose search was cut short, and why.
        refused: keys of scored runs that were left out, and why.
        shifts: of the grid of each method, as in `ladder`.
    """

    def __init__(
        self,
        templates: Sequence[PlannedRun],
        protocol: Protocol,
        store: ResultStore,
        *,
        budget: float | None,
        force: bool,
        shifts: Mapping[str, int] = NO_SHIFTS,
    ) -> None:
        assert protocol.search is not None
        self.templates, self.protocol, self.store = templates, protocol, store
        self.search: Search = protocol.search
        self.budget, self.force = budget, force
        self.shifts = [shifts.get(name_of(run.spec), 0) for run in templates]
        self.known: dict[str, RunResult | None] = {}
        self.length: dict[str, tuple[int, float]] = {}
        self.scored: list[str] = []
        self.ended: dict[int, str] = {}
        self.refused: dict[str, str] = {}
        self.path = path_of(store.root, templates[0].spec, templates[0].group, protocol, suggested=bool(shifts))

    def walk(self, who: int) -> Walk:
        """How far the search of a method has come."""
        tried = {}
        for rung, share in enumerate(self.search.shares):
            for rate in self.ladder(who):
                key = self.spec(who, share, rate).key
                if key in self.known:
                    tried[rung, rate] = tried_from(self.known[key])
        return walk(self.search, self.protocol.learning_rates, tried, self.shifts[who])

    def ladder(self, who: int) -> tuple[float, ...]:
        """The rates that a method may be trained at, with those that its search may add."""
        return ladder(self.protocol.learning_rates, self.search.extend, self.shifts[who])

    def spec(self, who: int, share: float, rate: float, seed: int | None = None) -> RunSpec:
        """A run of a method; at the first seed unless another is named."""
        spec = self.templates[who].spec
        assert spec.recipe is not None
        seeds = self.protocol.seeds_with(self.protocol.seeds[0] if seed is None else seed)
        return spec.model_copy(update={"recipe": shorten(spec.recipe, share), "learning_rate": rate} | seeds)

    def planned(
        self, who: int, share: float, rate: float, seed: int | None = None, *, scored: bool = False
    ) -> PlannedRun:
        """A run to do, with what is stored of it."""
        spec = self.spec(who, share, rate, seed)
        fresh = self.force and spec.key not in self.known
        stored = None if fresh else read_stored(self.store, spec.key)
        template = self.templates[who]
        return PlannedRun(spec, template.group, template.evaluations if scored else (), stored)

    def note(self, who: int, run: PlannedRun, result: RunResult | None) -> None:
        """Takes in what came of a run."""
        key = run.spec.key
        self.known[key] = result
        self.length[key] = (who, self.share(who, run.spec))
        if run.evaluations and key not in self.scored:
            self.scored.append(key)

    def spent(self) -> float:
        """Seconds of all known runs, without loading; a method's calibration, which its runs share, counts once."""
        known = {key: result for key, result in self.known.items() if result is not None}
        return spent((self.length[key][0], seconds_of(result)) for key, result in known.items())

    def share(self, who: int, spec: RunSpec) -> float:
        """Which share of the whole training a run of a method is."""
        recipe = self.templates[who].spec.recipe
        assert recipe is not None
        return next(share for share in reversed(self.search.shares) if shorten(recipe, share) == spec.recipe)

    def needed(self, who: int, run: PlannedRun) -> float:
        """Seconds that a run will take; one that is trained is only scored."""
        share = 0.0 if run.spec.key in self.known else self.share(who, run.spec)
        return self.seconds(who, share, scored=bool(run.evaluations))

    def seconds(self, who: int, share: float, *, scored: bool) -> float:
        """Seconds for a share of the training and for the scores: medians over the method's runs, or over all while it has none.

        The calibration is left out: all runs of a method share it.
        """
        mine = [key for key, (whose, _) in self.length.items() if whose == who] or list(self.length)
        runs = [(result.costs, self.length[key][1]) for key in mine if (result := self.known[key]) is not None]

        def usual(stage: Stage) -> float:
            found = [costs[stage].seconds / (of if stage == "train" else 1) for costs, of in runs if stage in costs]
            return median(found) if found else 0.0

        seconds = usual("initialise") + usual("train") * share if share else 0.0
        answers = [one.costs["evaluate"].seconds for one in self.known.values() if one is not None and one.scores]
        return seconds + (median(answers) if scored and answers else 0.0)

    def parameters(self, who: int) -> int | None:
        """The trained parameters of a method: the most that a run of it had."""
        results = [self.known[key] for key, (whose, _) in self.length.items() if whose == who]
        counts = [result.trainable_parameters for result in results if result is not None]
        return max((count for count in counts if count is not None), default=None)


def tried_from(result: RunResult | None) -> Tried:
    """What the search makes of a result."""
    if result is None:
        return Tried(None, "the run left no result")
    if result.status in {"ok", "partial"} and result.validation_loss is not None:
        finite = math.isfinite(result.validation_loss)
        return (
            Tried(result.validation_loss) if finite else Tried(None, "the validation loss is not finite", diverged=True)
        )
    return Tried(None, f"{result.status}: {result.reason}", diverged=result.status == "diverged")
