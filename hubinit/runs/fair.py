"""How a fair comparison chooses the learning rate of each method: decisions only, pure functions of what was measured.

The learning rate decides the ranking of initialisations, so every method gets the same grid and the same rule:

- **Suggested.** With `--suggest-lr` the grid of a method begins where the curvature at its start suggests: as many rates, as far
  apart, of one lattice for all methods, moved by half a grid's width at most. The rule after that is the same.
- **Rungs.** All rates of the grid are trained for a share of the steps (a recipe of its own, warm-up and decay included), and the
  better ones for longer, up to the whole training (successive halving, Jamieson & Talwalkar, arXiv 1502.07943). Rates compete
  within a method only: a method whose start is slow, as FILet's with its small first gradient, loses no place to another one.
- **Neighbours.** A short training favours high rates, so the best rate of a rung must have both its neighbours beside it, at that
  rung: one that an earlier rung dropped comes back, and one beyond the end of the grid is added, up to `extend` at each end. The
  chosen rate is therefore never at an edge, unless the limit, or a rate that diverged, is beyond it.
- **Choice** by validation loss on a part of the training split, at the first seed; equal losses go to the lower rate. No run of
  the search is scored on a test set. A rate that diverged in a shorter training is out.
- **Finals.** The chosen rate and the default one are trained at every seed and scored. The better of the two by median validation
  loss is the tuned one, as on the leaderboard.
- **Budget.** Needs are met in an order: scored runs of what was searched, at the chosen rates before the default one; then steps
  of the search, method by method, each only if the scored runs of all methods that have begun still fit behind it. What does not
  fit waits while something else does. Then a method that has begun ends its search with the best rate so far; one that has not
  is left out. Times are those of the runs so far; the first run, which nothing is known before, is one that is needed anyway.

- **Parameters.** All methods train about as many parameters as plain LoRA at the protocol's rank (`hubinit.runs.matching`): a
  frozen A has nearly twice the rank, and so has MiCA. What whole ranks cannot equal is shown as a ratio, before the runs as
  counted and after them as trained: of DoRA, of NEAT, and of EVA, which deals the same sum of ranks out to layers of other sizes.
  All starts with a frozen A have one rank, so they are compared with each other at it. `--set match_parameters=false` gives all
  methods one rank, `--set per_method.mica.rank=16` one of them its own.

What comes out depends on the results and on their order only, so a search that was cut off ends as if it had not been.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import geometric_mean, median
from typing import Literal

from hubinit.specs import Recipe, Search

Decision = Literal["kept", "dropped", "chosen"]
Trial = tuple[int, float]  # rung (the last one is the whole training) and learning rate


@dataclass(frozen=True)
class Tried:
    """What a training at the first seed gave: a validation loss, or why there is none."""

    loss: float | None
    reason: str | None = None
    diverged: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a rate at one rung, and why."""

    rung: int
    rate: float
    loss: float | None
    decision: Decision
    reason: str


@dataclass(frozen=True)
class Walk:
    """How far the search of one method has come: what it wants next, and what it decided so far.

    `best` is the best rate of the highest rung that has a loss; it is the chosen one when nothing is wanted.
    """

    wanted: tuple[Trial, ...]
    verdicts: tuple[Verdict, ...]
    best: float | None
    added: tuple[float, ...]  # rates beyond the grid


def ladder(grid: Sequence[float], extend: int, shift: int = 0) -> tuple[float, ...]:
    """The grid of a method and the rates that it may add beyond its ends, none above 1.

    Args:
        grid: of the protocol; its mean ratio makes a lattice of it that goes on at both ends, to two digits.
        extend: how many rates may be added at each end.
        shift: how many steps of the lattice the method's grid lies above the protocol's.
    """
    rates = sorted(set(grid))
    if len(rates) < 2:
        return tuple(rates)
    ratio, top = step_ratio(rates), len(rates) - 1

    def at(place: int) -> float:
        if 0 <= place <= top:
            return rates[place]
        end = min(max(place, 0), top)
        return float(f"{rates[end] * ratio ** (place - end):.2g}")

    places = range(shift - extend, shift + top + extend + 1)
    return tuple(rate for rate in map(at, places) if rate <= 1)


def step_ratio(grid: Sequence[float]) -> float:
    """The mean ratio of neighbours in a grid of two rates or more."""
    return math.exp(math.log(max(grid) / min(grid)) / (len(set(grid)) - 1))


def shift_to(grid: Sequence[float], suggested: float) -> int:
    """By how many steps of the lattice a grid moves to have its middle nearest a suggested rate.

    Half the width of the grid at most, so that the rate in the middle of the protocol's grid is in every method's: what is
    suggested may be far off.
    """
    if len(set(grid)) < 2:
        return 0
    most = (len(set(grid)) - 1) // 2
    steps = round(math.log(suggested / geometric_mean(set(grid))) / math.log(step_ratio(grid)))
    return min(max(steps, -most), most)


def shorten(recipe: Recipe, share: float) -> Recipe:
    """The recipe of a rung: the same in everything but its length. The whole length is the recipe itself."""
    if share == 1:
        return recipe
    if recipe.steps is not None:
        steps = max(2, round(recipe.steps * share))  # the first step of a warm-up has the rate 0
        return recipe.model_copy(update={"steps": min(recipe.steps, steps)})
    return recipe.model_copy(update={"epochs": recipe.epochs * share})


def walk(search: Search, grid: Sequence[float], tried: Mapping[Trial, Tried], shift: int = 0) -> Walk:
    """Follows the search of one method as far as results go.

    Args:
        search: the rule.
        grid: learning rates of the protocol.
        tried: results by rung and rate; those that the search did not ask for are not looked at.
        shift: of the method's grid, as in `ladder`.

    Returns:
        What it wants next, with what it decided on the way. Nothing is wanted when a rate is chosen, or when none has a loss.
    """
    rates, begun = ladder(grid, search.extend, shift), set(ladder(grid, 0, shift))
    racing, out = set(begun), set[float]()
    verdicts: list[Verdict] = []
    added: set[float] = set()
    best: float | None = None
    rung, last = 0, len(search.shares) - 1
    while True:
        missing = tuple((rung, rate) for rate in sorted(racing) if (rung, rate) not in tried)
        found = {rate: tried[rung, rate] for rate in sorted(racing) if (rung, rate) in tried}
        losses = {rate: one.loss for rate, one in found.items() if one.loss is not None}
        ahead = sorted(losses, key=lambda rate: (losses[rate], rate))
        if missing:
            return Walk(missing, (*verdicts, *_judge(rung, found, set(losses))), best, tuple(sorted(added)))
        best = ahead[0] if ahead else best  # of a whole rung: one rate that is there by chance is not compared with any
        out |= {rate for rate, one in found.items() if one.loss is None}
        more = _neighbours(rates, ahead[0] if ahead else None, found) - racing - out
        if more:
            added |= more - begun
            racing |= more
            continue
        kept = set(ahead[:1]) if rung == last else set(ahead[: max(1, math.ceil(search.keep * len(ahead)))])
        verdicts += _judge(rung, found, kept, last=rung == last)
        if rung == last or not ahead:
            return Walk((), tuple(verdicts), best, tuple(sorted(added)))
        racing, rung = kept, rung + 1


def _neighbours(rates: Sequence[float], best: float | None, found: Mapping[float, Tried]) -> set[float]:
    """The rates on both sides of the best one; where all diverged, the one below them."""
    if best is None:
        lowest = rates.index(min(found))
        return {rates[lowest - 1]} if lowest and any(one.diverged for one in found.values()) else set()
    place = rates.index(best)
    return set(rates[max(0, place - 1) : place + 2])


def _judge(rung: int, found: Mapping[float, Tried], kept: set[float], *, last: bool = False) -> list[Verdict]:
    """The verdict on each rate of a rung."""
    losses = [one.loss for one in found.values() if one.loss is not None]
    verdicts = []
    for rate, one in found.items():
        decision: Decision = "dropped" if rate not in kept else "chosen" if last else "kept"
        if one.loss is None:
            reason = one.reason or "no validation loss"
        elif rate in kept:
            reason = "the lowest validation loss" if last else ""
        else:
            place = 1 + sum(loss < one.loss for loss in losses)
            reason = f"validation loss {one.loss:.4f} is number {place} of {len(found)}"
        verdicts.append(Verdict(rung, rate, one.loss, decision, reason))
    return verdicts


def most_trials(search: Search, grid: Sequence[float]) -> list[Trial]:
    """The longest search there can be where the loss of each rung has a single valley over the rates, wherever it lies."""
    rates = ladder(grid, search.extend)
    longest: list[Trial] = []
    for valleys in product(range(len(rates)), repeat=len(search.shares)):
        tried: dict[Trial, Tried] = {}
        while wanted := walk(search, grid, tried).wanted:
            tried |= {(rung, rate): Tried(abs(rates.index(rate) - valleys[rung])) for rung, rate in wanted}
        if _length(search, tried) > _length(search, longest):
            longest = list(tried)
    return longest


def _length(search: Search, trials: Iterable[Trial]) -> float:
    return sum(search.shares[rung] for rung, _ in trials)


def tuned_rate(losses: Mapping[float, Sequence[float]]) -> float | None:
    """Of the scored rates the one with the lowest median validation loss; a rate that lost seeds only where all did.

    Args:
        losses: validation losses of the seeds that have one, by rate.
    """
    most = max(map(len, losses.values()), default=0)
    whole = [rate for rate, seeds in losses.items() if len(seeds) == most > 0]
    return min(whole, key=lambda rate: (median(losses[rate]), rate), default=None)


@dataclass(frozen=True)
class Need:
    """Seconds of a next step, and of what must still fit behind it; `begun`: time was spent that is lost without that."""

    seconds: float
    reserve: float = 0.0
    begun: bool = False


def afford(needs: Sequence[Need], left: float) -> list[bool]:
    """Which needs, the most pressing first, fit into the seconds that are left.

    What those that have begun reserve is kept free before all else, whether they fit now or not. A need that does not fit does
    not stop smaller ones after it.
    """
    left -= held(needs)
    met = []
    for need in needs:
        more = need.seconds + (0.0 if need.begun else need.reserve)
        met.append(more <= left)
        left -= more if met[-1] else 0.0
    return met


def held(needs: Iterable[Need]) -> float:
    """Seconds that are kept free for what has begun."""
    return sum(need.reserve for need in needs if need.begun)
