"""A benchmark that chooses learning rates: rounds over the same sweep, each planned from what the rounds before it gave.

The rule is in `hubinit.runs.fair`. A search that is started again replays its rounds: what is stored is found, not done again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hubinit.records import ResultStore, RunResult, Stage
from hubinit.runs.decisions import Decisions, FinalRun, MethodDecisions, TriedRate, path_of, write_decisions
from hubinit.runs.executors.spec import Executor
from hubinit.runs.fair import Need, Tried, Walk, afford, held, ladder, most_trials, shorten, tuned_rate, walk
from hubinit.runs.job import Event, Job
from hubinit.runs.plan import PlannedRun, Request
from hubinit.specs import DEFAULT_OPTIMISER, EvalSpec, Protocol, RunSpec, Search

Do = Callable[[Sequence[PlannedRun], str], list[RunResult]]


@dataclass(frozen=True)
class Step:
    """Runs of one method that are granted or refused together."""

    who: int
    what: str  # search, chosen or default
    runs: tuple[PlannedRun, ...]
    need: Need


@dataclass
class Searched:
    """What a search left: the runs that are scored, with their results, and the files of its decisions."""

    results: list[RunResult]
    files: list[Path]
    decisions: list[Decisions]

    @property
    def default_rate(self) -> float | None:
        """The rate that every method was scored at; None without a search."""
        return self.decisions[0].default_rate if self.decisions else None


def template_request(request: Request, protocol: Protocol) -> Request:
    """The request for one run of each method: at the default rate and the first seed, in full."""
    assert protocol.search is not None
    return replace(request, learning_rates=(protocol.search.default_rate,), seeds=protocol.seeds[:1])


def run_search(
    templates: Sequence[PlannedRun],
    protocol: Protocol,
    store: ResultStore,
    do: Do,
    *,
    budget: float | None = None,
    force: bool = False,
) -> Searched:
    """Searches, trains and scores.

    Args:
        templates: the plan of `template_request`.
        protocol: the grid, the seeds and the rule.
        store: of results; the decisions are written there after each round.
        do: does the runs of a round, which it is told in words, and returns their results.
        budget: seconds that all runs together may take, those of earlier attempts included; loading is not counted.
            The comparisons share it: each gets its part of what the ones before left.
        force: do what is stored again.
    """
    boards: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in templates:
        if run.spec.recipe is not None:
            boards.setdefault((run.spec.model.key, run.group), []).append(run)
    untrained = [run for run in templates if run.spec.recipe is None]
    found = Searched(do(untrained, "the base as it is") if untrained else [], [], [])
    for place, runs in enumerate(boards.values()):
        share = None if budget is None else budget / (len(boards) - place)
        board = Board(runs, protocol, store, budget=share, force=force)
        board.follow(do)
        budget = None if budget is None else budget - board.spent()
        found.files.append(board.path)
        found.decisions.append(board.decisions())
        found.results += [result for run in board.finals() if (result := board.known.get(run.spec.key)) is not None]
    return found


class Board:
    """The methods of one model and training set, and what is known of their runs."""

    def __init__(
        self,
        templates: Sequence[PlannedRun],
        protocol: Protocol,
        store: ResultStore,
        *,
        budget: float | None,
        force: bool,
    ) -> None:
        assert protocol.search is not None
        self.templates, self.protocol, self.store = templates, protocol, store
        self.search: Search = protocol.search
        self.budget, self.force = budget, force
        self.known: dict[str, RunResult | None] = {}  # of this command's rounds; None: it left no result
        self.length: dict[str, tuple[int, float]] = {}  # method and share of the training of each known run
        self.scored: set[str] = set()  # runs that were given to be scored
        self.ended: dict[int, str] = {}  # methods that were cut short, and why
        self.refused: dict[str, str] = {}  # scored runs that were left out, and why
        self.path = path_of(store.root, templates[0].spec, templates[0].group, protocol)

    def follow(self, do: Do) -> None:
        """Takes rounds until nothing is wanted any more."""
        if self.budget is not None:  # nothing is measured yet: one run that is needed anyway
            self._do([self._first()], do)
        while steps := list(self._steps()):
            needs = [step.need for step in steps]
            left = math.inf if self.budget is None else self.budget - self.spent()
            granted = afford(needs, left)
            for step, fits in zip(steps, granted, strict=True):
                if not fits and (step.what != "search" or not any(granted)):
                    self._refuse(step, left - held(needs))
            self._do([step for step, fits in zip(steps, granted, strict=True) if fits], do)
            write_decisions(self.path, self.decisions())

    def _do(self, steps: Sequence[Step], do: Do) -> None:
        """Does the runs of one round, each once."""
        runs = list({run.spec.key: run for step in steps for run in step.runs}.values())
        if not runs:
            return
        counts = {what: sum(len(step.runs) for step in steps if step.what == what) for what in ("search", "scored")}
        counts["scored"] = len(runs) - counts["search"]
        words = [
            f"{count} {'to compare rates' if what == 'search' else 'to score'}"
            for what, count in counts.items()
            if count
        ]
        results = {result.key: result for result in do(runs, f"{len(runs)} runs: {', '.join(words)}")}
        for step in steps:
            for run in step.runs:
                self.known[run.spec.key] = results.get(run.spec.key)
                self.length[run.spec.key] = (step.who, self._share(step.who, run.spec))
                self.scored |= {run.spec.key} if run.evaluations else set()

    def _steps(self) -> Iterator[Step]:
        """What is wanted next, the most pressing first."""
        seeds, methods = self.protocol.seeds, range(len(self.templates))
        walks = [self.walk(who) for who in methods]
        done = [who for who in methods if who in self.ended or not walks[who].wanted]
        for what in ("chosen", "default"):
            for seed in seeds:
                for who in done:
                    rate = walks[who].best if what == "chosen" else self.search.default_rate
                    if walks[who].best is None or rate is None:
                        continue
                    run = self.planned(who, 1.0, rate, seed, self.templates[who].evaluations)
                    if run.spec.key not in self.scored and run.spec.key not in self.refused:
                        yield Step(who, what, (run,), Need(self._needed(who, run)))
        for who in methods:
            if who in done:
                continue
            runs = tuple(self.planned(who, self.search.shares[rung], rate) for rung, rate in walks[who].wanted)
            reserve = 2 * len(seeds) * self._seconds(who, 1.0, scored=True)
            yield Step(
                who,
                "search",
                runs,
                Need(sum(self._needed(who, run) for run in runs), reserve, begun=bool(walks[who].verdicts)),
            )

    def _first(self) -> Step:
        """The first method at the default rate, scored: what everything is estimated from."""
        template = self.templates[0]
        return Step(
            0, "default", (self.planned(0, 1.0, self.search.default_rate, None, template.evaluations),), Need(0.0)
        )

    def _refuse(self, step: Step, left: float) -> None:
        """Notes what is left out for want of time; `left`: beside the scored runs of the methods that have begun."""
        room = f"the budget has {max(left, 0.0):.0f} s left for it"
        if step.what != "search":
            self.refused[step.runs[0].spec.key] = f"left out: {room}, and it takes about {step.need.seconds:.0f} s"
        elif step.need.begun and self.walk(step.who).best is not None:
            self.ended[step.who] = (
                f"the search ended early: {room}, and its next step takes about {step.need.seconds:.0f} s"
            )
        else:
            needed = step.need.seconds + step.need.reserve
            self.ended[step.who] = (
                f"the method was left out: {room}, and its first rates and scored runs take about {needed:.0f} s"
            )

    def walk(self, who: int) -> Walk:
        """How far the search of a method has come."""
        tried = {}
        for rung, share in enumerate(self.search.shares):
            for rate in ladder(self.protocol.learning_rates, self.search.extend):
                key = self.spec(who, share, rate).key
                if key in self.known:
                    tried[rung, rate] = tried_from(self.known[key])
        return walk(self.search, self.protocol.learning_rates, tried)

    def spec(self, who: int, share: float, rate: float, seed: int | None = None) -> RunSpec:
        """A run of a method; at the first seed unless another is named."""
        spec = self.templates[who].spec
        assert spec.recipe is not None
        seeds = self.protocol.seeds_with(self.protocol.seeds[0] if seed is None else seed)
        return spec.model_copy(update={"recipe": shorten(spec.recipe, share), "learning_rate": rate} | seeds)

    def planned(
        self, who: int, share: float, rate: float, seed: int | None = None, evaluations: tuple[EvalSpec, ...] = ()
    ) -> PlannedRun:
        """A run to do, with what is stored of it."""
        spec = self.spec(who, share, rate, seed)
        fresh = self.force and spec.key not in self.known
        stored = None if fresh else self.store.readable(spec.key)
        return PlannedRun(spec, self.templates[who].group, evaluations, stored)

    def finals(self) -> list[PlannedRun]:
        """The runs that are scored, as far as is known which."""
        found = {}
        for who, template in enumerate(self.templates):
            for rate in (self.walk(who).best, self.search.default_rate):
                for seed in self.protocol.seeds:
                    if rate is not None:
                        run = self.planned(who, 1.0, rate, seed, template.evaluations)
                        if run.spec.key in self.scored:
                            found[run.spec.key] = run
        return list(found.values())

    def spent(self) -> float:
        """Seconds of all known runs, without loading; a method's calibration, which its runs share, counts once."""
        total, calibrations = 0.0, dict[int, float]()
        for key, result in self.known.items():
            costs = {} if result is None else result.costs
            total += sum(costs[s].seconds for s in ("initialise", "train", "evaluate") if s in costs)
            if "calibrate" in costs:
                who = self.length[key][0]
                calibrations[who] = max(calibrations.get(who, 0.0), costs["calibrate"].seconds)
        return total + sum(calibrations.values())

    def _share(self, who: int, spec: RunSpec) -> float:
        recipe = self.templates[who].spec.recipe
        assert recipe is not None
        return next(share for share in reversed(self.search.shares) if shorten(recipe, share) == spec.recipe)

    def _needed(self, who: int, run: PlannedRun) -> float:
        """Seconds that a run will take; one that is trained is only scored."""
        share = 0.0 if run.spec.key in self.known else self._share(who, run.spec)
        return self._seconds(who, share, scored=bool(run.evaluations))

    def _seconds(self, who: int, share: float, *, scored: bool) -> float:
        """Seconds for a share of the training and for the scores: the most that its runs took, or all while it has none.

        The calibration is left out: all runs of a method share it.
        """
        mine = [key for key, (whose, _) in self.length.items() if whose == who] or list(self.length)
        runs = [(result.costs, self.length[key][1]) for key in mine if (result := self.known[key]) is not None]

        def most(stage: Stage) -> float:
            return max(
                (costs[stage].seconds / (of if stage == "train" else 1) for costs, of in runs if stage in costs),
                default=0,
            )

        seconds = most("initialise") + most("train") * share if share else 0.0
        answers = [one.costs["evaluate"].seconds for one in self.known.values() if one is not None and one.scores]
        return seconds + (max(answers, default=0.0) if scored else 0.0)

    def decisions(self) -> Decisions:
        """What is decided so far."""
        spec, protocol = self.templates[0].spec, self.protocol
        parameters = [self._parameters(who) for who in range(len(self.templates))]
        plain = [
            count
            for one, count in zip(self.templates, parameters, strict=True)
            if one.spec.method.name == "lora" and optimiser_of(one.spec) == DEFAULT_OPTIMISER and count
        ]
        return Decisions(
            model=spec.model.id,
            revision=spec.model.revision,
            dtype=spec.model.dtype,
            group=self.templates[0].group,
            rank=protocol.rank,
            grid=tuple(sorted(protocol.learning_rates)),
            default_rate=self.search.default_rate,
            shares=self.search.shares,
            keep=self.search.keep,
            extend=self.search.extend,
            seeds=protocol.seeds,
            budget_seconds=self.budget,
            spent_seconds=self.spent(),
            methods=tuple(self._method(who, count, plain) for who, count in enumerate(parameters)),
        )

    def _parameters(self, who: int) -> int | None:
        """The trained parameters of a method: the most that a run of it had."""
        results = [self.known[key] for key, (whose, _) in self.length.items() if whose == who]
        counts = [result.trainable_parameters for result in results if result is not None]
        return max((count for count in counts if count is not None), default=None)

    def _method(self, who: int, parameters: int | None, plain: Sequence[int]) -> MethodDecisions:
        """The decisions on one method."""
        walked, spec = self.walk(who), self.templates[who].spec
        finals = [
            self._final(who, rate, seed)
            for rate in sorted({walked.best or self.search.default_rate, self.search.default_rate})
            for seed in self.protocol.seeds
            if (who in self.ended or not walked.wanted) and walked.best is not None
        ]
        losses: dict[float, list[float]] = {}
        for final in finals:
            if final.status in {"ok", "partial"} and final.validation_loss is not None:
                losses.setdefault(final.learning_rate, []).append(final.validation_loss)
        ended = self.ended.get(who)
        if ended is None and walked.best is None and not walked.wanted:
            ended = "the method was left out: no rate has a validation loss"
        return MethodDecisions(
            method=spec.method.name,
            optimiser=optimiser_of(spec),
            options=spec.method.options,
            rank=spec.rank,
            trainable_parameters=parameters,
            parameters_to_lora=parameters / plain[0] if parameters and plain else None,
            tried=tuple(
                TriedRate(
                    rung=verdict.rung,
                    share=self.search.shares[verdict.rung],
                    learning_rate=verdict.rate,
                    key=self.spec(who, self.search.shares[verdict.rung], verdict.rate).key,
                    validation_loss=verdict.loss,
                    decision=verdict.decision,
                    reason=verdict.reason,
                )
                for verdict in walked.verdicts
            ),
            added_rates=walked.added,
            chosen_rate=walked.best if finals else None,
            tuned_rate=tuned_rate(losses),
            finals=tuple(finals),
            ended_early=ended,
        )

    def _final(self, who: int, rate: float, seed: int) -> FinalRun:
        key = self.spec(who, 1.0, rate, seed).key
        result = self.known.get(key) if key in self.scored else None
        return FinalRun(
            learning_rate=rate,
            seed=seed,
            key=key,
            status=result.status if result is not None else None,
            validation_loss=result.validation_loss if result is not None else None,
            reason=result.reason if result is not None else self.refused.get(key),
        )


class Lent:
    """An executor that a sweep may close and that stays open, for the next round."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def submit(self, job: Job) -> Iterator[Event]:
        """Does a job; see `Executor`."""
        return self.executor.submit(job)

    def close(self) -> None:
        """Does nothing: whoever lent the executor closes it."""


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


def optimiser_of(spec: RunSpec) -> str:
    """The optimiser of a run with its settings, as tables name it."""
    return spec.recipe.optimiser_label if spec.recipe is not None else DEFAULT_OPTIMISER


def longest_search(templates: Sequence[PlannedRun], protocol: Protocol, store: ResultStore) -> list[PlannedRun]:
    """All runs of the longest search there can be, each once: what `--dry-run` counts."""
    assert protocol.search is not None
    trials = most_trials(protocol.search, protocol.learning_rates)
    found = {run.spec.key: run for run in templates if run.spec.recipe is None}
    for template in templates:
        if template.spec.recipe is None:
            continue
        board = Board([template], protocol, store, budget=None, force=False)
        other = next((rate for _, rate in reversed(trials) if rate != protocol.search.default_rate), None)
        finals = [protocol.search.default_rate, *([other] if other is not None else [])]
        runs = [board.planned(0, 1.0, rate, seed, template.evaluations) for rate in finals for seed in protocol.seeds]
        runs += [board.planned(0, protocol.search.shares[rung], rate) for rung, rate in trials]
        for run in runs:
            found.setdefault(run.spec.key, run)
    return list(found.values())
