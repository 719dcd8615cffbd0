"""The rule that chooses learning rates, without training: losses come from formulas."""

import math
import random
from collections.abc import Callable

import pytest

from hubinit.runs.fair import Need, Tried, Walk, afford, ladder, most_trials, shift_to, shorten, tuned_rate, walk
from hubinit.runs.protocol import read_protocol
from hubinit.specs import Recipe, Search

GRID = (2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3)
Losses = Callable[[int, float], Tried]


def follow(search: Search, losses: Losses) -> tuple[Walk, list[tuple[int, float]]]:
    """The end of a search, and the trials in their order."""
    tried: dict[tuple[int, float], Tried] = {}
    while wanted := (walked := walk(search, GRID, tried)).wanted:
        assert not set(wanted) & set(tried), "nothing is done twice"
        tried |= {(rung, rate): losses(rung, rate) for rung, rate in wanted}
    return walked, list(tried)


def valley(*bottoms: float) -> Losses:
    """One valley per rung, at these rates."""
    return lambda rung, rate: Tried(abs(math.log(rate / bottoms[rung])))


def test_the_ladder_goes_on_in_the_ratio_of_the_grid() -> None:
    assert ladder(GRID, 2) == (2e-6, 6.3e-6, *GRID, 6.3e-3, 2e-2)
    assert ladder((0.1, 0.01), 3) == (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0), "no rate is above 1"
    assert ladder((1e-3,), 2) == (1e-3,), "one rate has no ratio"


def test_a_moved_grid_lies_on_the_same_lattice() -> None:
    lattice = ladder(GRID, 4)
    for shift in (-2, -1, 0, 1, 2):
        assert ladder(GRID, 0, shift) == lattice[4 + shift : 9 + shift]
        assert ladder(GRID, 2, shift) == tuple(rate for rate in lattice[2 + shift : 11 + shift] if rate <= 1)
    assert ladder((0.1, 1.0), 1, 1) == (0.1, 1.0), "no rate is above 1"
    assert ladder((1e-3,), 2, 1) == (1e-3,)


def test_a_grid_moves_to_the_nearest_step_and_keeps_the_middle_of_the_common_one() -> None:
    middle, step = 2e-4, 10**0.5
    for steps, expected in ((0, 0), (0.4, 0), (0.6, 1), (-1.2, -1), (2, 2), (4.8, 2), (-9, -2)):
        assert shift_to(GRID, middle * step**steps) == expected
        assert middle in ladder(GRID, 0, expected)
    assert shift_to((1e-3,), 0.5) == 0
    assert shift_to((1e-4, 1e-3), 0.5) == 0, "half of one step is none"


def test_a_search_from_a_moved_grid_ends_at_the_same_rate() -> None:
    for bottom in (2e-5, 2e-4, 2e-3):
        for shift in (-2, -1, 1, 2):
            tried: dict[tuple[int, float], Tried] = {}
            first = walk(Search(), GRID, tried, shift).wanted
            assert tuple(rate for _, rate in first) == ladder(GRID, 0, shift)
            while wanted := (walked := walk(Search(), GRID, tried, shift)).wanted:
                tried |= {(rung, rate): valley(bottom, bottom)(rung, rate) for rung, rate in wanted}
            assert walked.best == bottom
            assert not set(walked.added) & set(ladder(GRID, 0, shift))


def test_a_rung_is_the_recipe_at_another_length() -> None:
    recipe = Recipe(steps=40, warmup_ratio=0.1)
    assert shorten(recipe, 0.25) == recipe.model_copy(update={"steps": 10})
    assert shorten(Recipe(epochs=2), 0.25).epochs == 0.5
    assert shorten(Recipe(steps=9), 0.1).steps == 2
    assert shorten(Recipe(steps=1), 0.1).steps == 1
    assert shorten(recipe, 1.0).key == recipe.key


def test_the_better_half_goes_on_and_the_best_at_full_length_is_chosen() -> None:
    walked, trials = follow(Search(), valley(2e-4, 2e-4))
    assert walked.best == 2e-4
    assert trials == [*((0, rate) for rate in GRID), (1, 6.3e-5), (1, 2e-4), (1, 6.3e-4)]
    assert [(v.rate, v.decision) for v in walked.verdicts if v.rung == 0] == [
        *((2e-5, "dropped"), (6.3e-5, "kept"), (2e-4, "kept"), (6.3e-4, "kept"), (2e-3, "dropped"))
    ]
    assert all(verdict.reason for verdict in walked.verdicts if verdict.decision == "dropped")


def test_a_dropped_neighbour_comes_back_when_the_best_moves_beside_it() -> None:
    """A short training favours high rates: here the first rung drops 2e-5, and the whole training is best at 6.3e-5."""
    walked, trials = follow(Search(), valley(2e-4, 6.3e-5))
    assert walked.best == 6.3e-5
    assert (1, 2e-5) in trials


def test_the_grid_is_extended_while_the_best_lies_on_an_edge_and_not_beyond_the_limit() -> None:
    walked, _ = follow(Search(extend=2), valley(6e-3, 6e-3))
    assert (walked.best, walked.added) == (6.3e-3, (6.3e-3, 2e-2))
    walked, _ = follow(Search(extend=1), valley(1e-7, 1e-7))
    assert (walked.best, walked.added) == (6.3e-6, (6.3e-6,))
    walked, _trials = follow(Search(extend=0), valley(1.0, 1.0))
    assert (walked.best, walked.added) == (2e-3, ())


def test_a_rate_that_diverged_is_out_and_is_not_tried_in_full() -> None:
    def losses(rung: int, rate: float) -> Tried:
        return Tried(None, "diverged: at step 3", diverged=True) if rate > 1e-3 else Tried(1e-3 / rate)

    walked, trials = follow(Search(), losses)
    assert walked.best == 6.3e-4
    assert (0, 2e-3) in trials and (1, 2e-3) not in trials and (0, 6.3e-3) not in trials
    assert [v.reason for v in walked.verdicts if v.rate == 2e-3] == ["diverged: at step 3"]


def test_where_all_diverged_lower_rates_are_tried_and_where_all_failed_none() -> None:
    walked, trials = follow(Search(extend=2), lambda rung, rate: Tried(None, "diverged", diverged=True))
    assert (walked.best, len(trials), walked.added) == (None, 7, (2e-6, 6.3e-6))
    walked, trials = follow(Search(extend=2), lambda rung, rate: Tried(None, "failed: out of memory"))
    assert (walked.best, len(trials)) == (None, 5)


def test_equal_losses_go_to_the_lower_rate() -> None:
    walked, _ = follow(Search(rungs=()), lambda rung, rate: Tried(1.0))
    assert walked.best == 2e-6


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_losses_the_chosen_rate_beats_both_its_neighbours_in_full(seed: int) -> None:
    """Brute force: the whole table of losses is drawn beforehand."""
    dice = random.Random(seed)
    search = Search(rungs=((), (0.5,), (0.1, 0.3))[seed % 3], keep=dice.choice((0.1, 0.5, 1.0)), extend=seed % 3)
    rates = ladder(GRID, search.extend)
    drawn = {
        (rung, rate): Tried(dice.random()) if dice.random() < 0.9 else Tried(None, "diverged", diverged=True)
        for rung in range(len(search.shares))
        for rate in rates
    }
    walked, trials = follow(search, lambda rung, rate: drawn[rung, rate])
    last = len(search.shares) - 1
    if walked.best is None:
        assert all(drawn[trial].loss is None for trial in trials)
        return
    out = {rate for rung, rate in trials if drawn[rung, rate].loss is None}
    place = rates.index(walked.best)
    for neighbour in rates[max(0, place - 1) : place + 2]:
        assert (last, neighbour) in trials or neighbour in out
        assert neighbour in out or drawn[last, neighbour].loss >= drawn[last, walked.best].loss
    in_full = [drawn[trial].loss for trial in trials if trial[0] == last and drawn[trial].loss is not None]
    assert drawn[last, walked.best].loss == min(in_full), "selection is by the losses of the whole training"


def test_a_search_that_is_cut_short_keeps_the_best_of_its_last_whole_rung() -> None:
    tried = {(0, rate): valley(6.3e-4)(0, rate) for rate in GRID}
    tried[1, 2e-4] = Tried(0.1)  # one of three is there
    walked = walk(Search(), GRID, tried)
    assert walked.wanted == ((1, 6.3e-4), (1, 2e-3))
    assert walked.best == 6.3e-4


def test_no_search_over_one_valley_is_longer_than_what_a_dry_run_counts() -> None:
    search = Search(rungs=(0.25,))
    most = len(most_trials(search, GRID))
    rates = ladder(GRID, search.extend)
    lengths = [len(follow(search, valley(one, two))[1]) for one in rates for two in rates]
    assert max(lengths) <= most
    assert most_trials(Search(rungs=(), extend=0), GRID) == [(0, rate) for rate in GRID]


def test_the_tuned_rate_is_that_of_the_lowest_median_and_lost_no_seeds() -> None:
    assert tuned_rate({1e-3: [1.0, 5.0, 1.1], 2e-4: [2.0, 2.0, 0.1]}) == 1e-3
    assert tuned_rate({1e-3: [0.1], 2e-4: [2.0, 2.0]}) == 2e-4, "the lucky seed of a rate whose others diverged"
    assert tuned_rate({1e-3: [1.0], 2e-4: [1.0]}) == 2e-4
    assert tuned_rate({}) is None


def test_what_does_not_fit_is_left_out_and_what_it_reserves_is_kept_free() -> None:
    assert afford([Need(4), Need(7), Need(5)], 10) == [True, False, True]
    assert afford([Need(1, reserve=8), Need(2), Need(1)], 10) == [True, False, True]
    assert afford([Need(6, reserve=5, begun=True), Need(1, reserve=4), Need(1, reserve=5)], 10) == [False, True, False]


def test_the_protocol_is_what_its_name_says() -> None:
    protocol = read_protocol("fair")
    assert protocol.search is not None
    assert protocol.learning_rates == GRID
    assert protocol.search.default_rate in GRID
    assert len(protocol.seeds) >= 3
    assert protocol.validation_samples > 0
