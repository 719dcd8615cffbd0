"""A benchmark that chooses learning rates: rounds over the same sweep, each planned from what the rounds before it gave.

The rule is in `hubinit.runs.fair`. A search that is started again replays its rounds: what is stored is found, not done again.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hubinit.records import ResultStore, RunResult
from hubinit.runs.board import NO_SHIFTS, Board
from hubinit.runs.decisions import Decisions, write_decisions
from hubinit.runs.fair import Need, afford, held, most_trials
from hubinit.runs.plan import PlannedRun, Request
from hubinit.runs.reporting import report_decisions
from hubinit.specs import Protocol

Do = Callable[[Sequence[PlannedRun], str], list[RunResult]]


@dataclass(frozen=True)
class Step:
    """Runs of one method that are granted or refused together; `scored`: they are final ones."""

    who: int
    scored: bool
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

    @property
    def left_out(self) -> int:
        """Methods of which no run has a validation loss."""
        return sum(one.failed for decisions in self.decisions for one in decisions.methods)


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
    shifts: Mapping[str, int] = NO_SHIFTS,
) -> Searched:
    """Searches, trains and scores.

    Args:
        templates: the plan of `template_request`.
        protocol: the grid, the seeds and the rule.
        store: of results; the decisions are written there after each round.
        do: does the runs of a round, which it is told in words, and returns their results.
        budget: seconds that all trainings and their scores may take together, those of earlier attempts included; loading is
            not counted. The comparisons share it: each gets its part of what the ones before left.
        force: do what is stored again.
        shifts: by `name_of`: how far the grid of a method lies from the protocol's, as in `ladder`.
    """
    boards: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in templates:
        if run.spec.recipe is not None:
            boards.setdefault((run.spec.model.key, run.group), []).append(run)
    untrained = [run for run in templates if run.spec.recipe is None]
    found = Searched(do(untrained, "The base as it is.") if untrained else [], [], [])
    for place, runs in enumerate(boards.values()):
        share = None if budget is None else budget / (len(boards) - place)
        board = Board(runs, protocol, store, budget=share, force=force, shifts=shifts)
        follow(board, do)
        budget = None if budget is None else budget - board.spent()
        found.files.append(board.path)
        found.decisions.append(report_decisions(board))
        found.results += [result for key in board.scored if (result := board.known[key]) is not None]
    return found


def follow(board: Board, do: Do) -> None:
    """Takes rounds until nothing is wanted any more."""
    if board.budget is not None:  # nothing is measured yet: one run that is needed anyway
        run = board.planned(0, 1.0, board.search.default_rate, scored=True)
        do_round(board, [Step(0, True, (run,), Need(0.0))], do)
    while steps := list(next_steps(board)):
        needs = [step.need for step in steps]
        left = math.inf if board.budget is None else board.budget - board.spent()
        granted = afford(needs, left)
        for step, fits in zip(steps, granted, strict=True):
            if not fits and not any(granted):
                refuse(board, step, left - held(needs))
        do_round(board, [step for step, fits in zip(steps, granted, strict=True) if fits], do)
        write_decisions(board.path, report_decisions(board))


def next_steps(board: Board) -> Iterator[Step]:
    """What is wanted next, the most pressing first."""
    methods = range(len(board.templates))
    walks = [board.walk(who) for who in methods]
    done = {who: walks[who].best for who in methods if who in board.ended or not walks[who].wanted}
    chosen = [(seed, who, rate) for seed in board.protocol.seeds for who, rate in done.items() if rate is not None]
    default = board.search.default_rate
    for seed, who, rate in [*chosen, *((seed, who, default) for seed, who, rate in chosen if rate != default)]:
        run = board.planned(who, 1.0, rate, seed, scored=True)
        if run.spec.key not in board.scored and run.spec.key not in board.refused:
            yield Step(who, True, (run,), Need(board.needed(who, run)))
    for who in methods:
        if who not in done:
            runs = tuple(board.planned(who, board.search.shares[rung], rate) for rung, rate in walks[who].wanted)
            seconds = sum(board.needed(who, run) for run in runs)
            reserve = 2 * len(board.protocol.seeds) * board.seconds(who, 1.0, scored=True)
            yield Step(who, False, runs, Need(seconds, reserve, begun=bool(walks[who].verdicts)))


def do_round(board: Board, steps: Sequence[Step], do: Do) -> None:
    """Does the runs of one round and notes what came of them."""
    if not steps:
        return
    trials = [run for step in steps if not step.scored for run in step.runs]
    finals = [run for step in steps if step.scored for run in step.runs]
    shares = sorted({board.share(step.who, run.spec) for step in steps if not step.scored for run in step.runs})
    lengths = " and ".join(f"{share:.0%}" for share in shares)
    words = [f"{len(trials)} to compare learning rates at {lengths} of the training"] if trials else []
    words += [f"{len(finals)} to score"] if finals else []
    results = {result.key: result for result in do([*finals, *trials], f"Next round: {', '.join(words)}.")}
    for step in steps:
        for run in step.runs:
            board.note(step.who, run, results.get(run.spec.key))


def refuse(board: Board, step: Step, left: float) -> None:
    """Notes what is left out for want of time; `left`: beside the scored runs of the methods that have begun."""
    room = f"the budget has {max(left, 0.0):.0f} s left beside the scored runs that are due"
    if step.scored:
        board.refused[step.runs[0].spec.key] = f"left out: {room}, and it takes about {step.need.seconds:.0f} s"
    elif step.need.begun and board.walk(step.who).best is not None:
        takes = f"its next step takes about {step.need.seconds:.0f} s"
        board.ended[step.who] = f"the search ended early: {room}, and {takes}"
    else:
        takes = f"its next rates and scored runs take about {step.need.seconds + step.need.reserve:.0f} s"
        board.ended[step.who] = f"the method was left out: {room}, and {takes}"


def longest_search(templates: Sequence[PlannedRun], protocol: Protocol, store: ResultStore) -> list[PlannedRun]:
    """All runs of the longest search there can be, each once: what `--dry-run` counts."""
    assert protocol.search is not None
    trials = most_trials(protocol.search, protocol.learning_rates)
    default = protocol.search.default_rate
    other = [rate for _, rate in trials if rate != default][-1:]  # stands for the chosen one
    found = {run.spec.key: run for run in templates if run.spec.recipe is None}
    for template in templates:
        if template.spec.recipe is None:
            continue
        board = Board([template], protocol, store, budget=None, force=False)
        runs = [board.planned(0, 1.0, rate, seed, scored=True) for rate in (default, *other) for seed in protocol.seeds]
        runs += [board.planned(0, protocol.search.shares[rung], rate) for rung, rate in trials]
        for run in runs:
            found.setdefault(run.spec.key, run)
    return list(found.values())
