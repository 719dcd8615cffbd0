"""A benchmark within a budget of time: which of its runs are done.

The budget is that of a search (`hubinit.runs.fair`): seconds of all trainings and their scores, those of earlier attempts
included; loading is not counted. The first seed of everything comes before the second, and within a seed the order is that of
the request. Times are estimated anew as runs end. What does not fit waits while something else does, and is left out then. The
first run, where nothing is known by measurement, is done anyway.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from hubinit.records import ResultStore, RunResult
from hubinit.runs.estimate import estimate
from hubinit.runs.fair import Need, afford
from hubinit.runs.plan import PlannedRun

Do = Callable[[Sequence[PlannedRun], str], list[RunResult]]


def run_within(
    budget: float, planned: Sequence[PlannedRun], store: ResultStore, do: Do
) -> tuple[list[RunResult], list[PlannedRun]]:
    """Does what fits into so many seconds.

    Args:
        budget: seconds.
        planned: all runs.
        store: of results, also of earlier runs here, whose times are known.
        do: does the runs of a round, which it is told in words, and returns their results.

    Returns:
        The results, stored ones included, and the runs that were left out.
    """
    found: dict[str, RunResult] = {}
    cached = [run for run in planned if run.state == "cached"]
    waiting = [run for run in by_priority(planned) if run.state != "cached"]
    if cached:
        found |= {result.key: result for result in do(cached, "")}
    expected = estimate(waiting, store)
    if waiting and not expected.measured:
        first = waiting.pop(0)
        found |= {result.key: result for result in do([first], "First, one run to measure.")}
        expected = estimate(waiting, store)
    took = {key: seconds_of(result) for key, result in found.items()}
    while granted := choose(waiting, expected.seconds, budget - spent_on(planned, took)):
        title = f"Next: {len(granted)} runs that fit into the budget."
        found |= {result.key: result for result in do(granted, title)}
        took = {key: seconds_of(result) for key, result in found.items()}
        waiting = [run for run in waiting if run not in granted]
        expected = estimate(waiting, store)
    return list(found.values()), waiting


def by_priority(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs in the order in which they matter: the first seed of everything, then the second."""
    seeds: dict[Hashable, int] = {}
    ranks = []
    for run in planned:
        seedless = run.spec.model_copy(
            update={"seed": 0, "data_seed": None, "init_seed": None, "dropout_seed": None}
        ).key
        seeds[seedless] = seeds.get(seedless, -1) + 1
        ranks.append(seeds[seedless])
    order = sorted(range(len(planned)), key=lambda place: (ranks[place], place))
    return [planned[place] for place in order]


def choose(runs: Sequence[PlannedRun], seconds: Sequence[float | None], left: float) -> list[PlannedRun]:
    """The runs, the most pressing first, that fit into the seconds that are left; one of unknown length does not."""
    needs = [Need(math.inf if one is None else one) for one in seconds]
    return [run for run, fits in zip(runs, afford(needs, left), strict=True) if fits]


def spent_on(planned: Sequence[PlannedRun], seconds: Mapping[str, Mapping[str, float]]) -> float:
    """Seconds of the runs so far; `seconds` by key and stage."""
    runs = [(run, seconds[run.spec.key]) for run in planned if run.spec.key in seconds]
    return spent(((run.spec.model.key, run.group, run.spec.method.key), stages) for run, stages in runs)


def spent(runs: Iterable[tuple[Hashable, Mapping[str, float]]]) -> float:
    """Seconds of runs, by stage, without loading; a calibration, which the runs of one name share, counts once."""
    total, calibrations = 0.0, dict[Hashable, float]()
    for who, seconds in runs:
        total += sum(seconds.get(stage, 0.0) for stage in ("initialise", "train", "evaluate"))
        calibrations[who] = max(calibrations.get(who, 0.0), seconds.get("calibrate", 0.0))
    return total + sum(calibrations.values())


def seconds_of(result: RunResult) -> dict[str, float]:
    """Seconds of a run by stage."""
    return {stage: cost.seconds for stage, cost in result.costs.items()}
