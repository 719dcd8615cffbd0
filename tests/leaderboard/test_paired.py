"""Differences, intervals, marks and places against scipy, statsmodels' definitions written out, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hubinit.leaderboard.paired import Difference, two_way, unpaired
from hubinit.leaderboard.statistics import ALPHA, best_shares, holm, places


def crossed(generator, tables, seeds, items, by_seed, by_item, rest):
    """[tables, seeds, items]: differences around 0 of the model with two crossed random factors."""
    draw = generator.standard_normal
    return by_seed * draw((tables, seeds, 1)) + by_item * draw((tables, 1, items)) + rest * draw((tables, seeds, items))


@pytest.mark.parametrize("shape", [(1, 40), (7, 1)])
def test_of_one_factor_it_is_student_s_paired_test(shape):
    a, b = np.random.default_rng(0).normal(0.3, 1, (2, *shape))
    found, expected = two_way(a - b), stats.ttest_rel(a.ravel(), b.ravel())
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_the_components_are_those_of_the_analysis_of_variance():
    d = crossed(np.random.default_rng(1), 1, 5, 9, 1.0, 2.0, 0.5)[0]
    grand, rows, columns = d.mean(), d.mean(axis=1), d.mean(axis=0)
    of_rows = sum(9 * (row - grand) ** 2 for row in rows) / 4
    of_columns = sum(5 * (column - grand) ** 2 for column in columns) / 8
    cells = itertools.product(range(5), range(9))
    rest = sum((d[s, i] - rows[s] - columns[i] + grand) ** 2 for s, i in cells) / 32
    found = two_way(d)
    assert found.by_seed == pytest.approx((of_rows - rest) / 9)
    assert found.by_item == pytest.approx((of_columns - rest) / 5)
    assert found.rest == pytest.approx(rest)
    assert found.stderr**2 == pytest.approx((of_rows + of_columns - rest) / 45)


def test_its_error_is_the_bootstrap_s_over_seeds_and_items_without_the_two_biases():
    """Both resampled 20,000 times: their variance is that of the plug-in components, with which ours agree once unbiased."""
    d = crossed(np.random.default_rng(2), 1, 6, 40, 0.3, 1.0, 0.7)[0]
    generator = np.random.default_rng(3)
    seeds = generator.multinomial(6, np.full(6, 1 / 6), 20_000) / 6  # [replicates, seeds]
    items = generator.multinomial(40, np.full(40, 1 / 40), 20_000) / 40  # [replicates, items]
    drawn = np.einsum("rs,si,ri->r", seeds, d, items).var()
    found = two_way(d)
    # E of the plug-in variances: each factor's is (n − 1)/n of its own component and of the rest within it
    a = (found.by_seed + found.rest / 40) * 5 / 6 / 6
    b = (found.by_item + found.rest / 6) * 39 / 40 / 40
    e = found.rest * (5 / 6) * (39 / 40) / 240
    assert drawn == pytest.approx(a + b + e, rel=0.03)


def test_over_items_alone_it_agrees_with_scipy_s_bootstrap():
    d = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=400)
    drawn = stats.bootstrap((d,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
    found = two_way(d[None])
    assert found.stderr == pytest.approx(drawn.standard_error, rel=0.03)
    assert (found.low, found.high) == pytest.approx(tuple(drawn.confidence_interval), abs=0.006)


@pytest.mark.parametrize(
    ("seeds", "items", "parts"),
    [
        pytest.param(3, 100, (0.0, 0.3, 0.3), id="questions-only"),
        pytest.param(3, 200, (0.02, 0.2, 0.3), id="both"),
        pytest.param(5, 100, (0.05, 0.2, 0.3), id="seeds-matter"),
        pytest.param(5, 50, (0.5, 0.1, 0.3), id="seeds-dominate"),
    ],
)
def test_intervals_of_95_percent_cover_the_truth_in_93_to_97(seeds, items, parts):
    tables = crossed(np.random.default_rng(5), 2000, seeds, items, *parts)
    found = [two_way(table) for table in tables]
    covered = np.mean([difference.low <= 0 <= difference.high for difference in found])
    assert 0.93 <= covered <= 0.97
    assert [one.p < 0.05 for one in found[:200]] == [not one.low <= 0 <= one.high for one in found[:200]], (
        "mark = interval"
    )


def test_marks_of_right_and_wrong_answers_are_false_in_at_most_5_percent_of_tables():
    """Six methods and LoRA, equally good, with easy and hard questions: a table with any mark is a false positive."""
    generator, tables, seeds, items = np.random.default_rng(6), 600, 3, 100
    chance = generator.beta(1, 1, (tables, 1, 1, items))  # of a right answer, by question
    luck = generator.normal(0, 0.02, (tables, 7, seeds, 1))  # of a run
    right = (generator.random((tables, 7, seeds, items)) < np.clip(chance + luck, 0, 1)).astype(float)
    wrong_marks = wrong_places = 0
    for methods in right:
        p = [two_way(one - methods[0]).p for one in methods[1:]]
        wrong_marks += min(holm(p)) < ALPHA
    for methods in right[:300, :4]:
        methods = methods[np.argsort(-methods.mean(axis=(1, 2)))]
        p = np.array([[two_way(a - b).p if a is not b else math.nan for b in methods] for a in methods])
        wrong_places += max(places(p)) > 1
    assert wrong_marks / tables <= 0.05
    assert wrong_places / 300 <= 0.05


def test_holm_is_its_definition_and_leaves_out_what_was_not_tested():
    p = [0.01, math.nan, 0.04, 0.03, 0.005]
    # sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1, never falling
    assert holm(p) == pytest.approx([0.03, math.nan, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_places_are_shared_within_chance_and_count_all_above():
    far, near = 1e-6, 0.5
    p = np.array(
        [
            [math.nan, near, far, far],
            [near, math.nan, far, far],
            [far, far, math.nan, near],
            [far, far, near, math.nan],
        ]
    )
    assert places(p) == [1, 1, 3, 3]
    assert places(np.full((3, 3), math.nan)) == [1, 1, 1]


def test_how_often_each_is_best_adds_up_and_follows_the_scores():
    generator = np.random.default_rng(7)
    values = (generator.random((3, 3, 300)) < np.array([0.7, 0.5, 0.5])[:, None, None]).astype(float)
    shares = best_shares(values)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > 0.99
    same = best_shares(np.repeat(values[:1], 2, axis=0))
    assert same == pytest.approx([0.5, 0.5])
    assert best_shares(values) == shares, "a table is a function of its results"
    pair = best_shares(values[1:, :1])[0]  # of one seed, it is a normal probability of the paired difference
    difference = values[1, 0] - values[2, 0]
    z = difference.mean() / (difference.std() / math.sqrt(300))
    assert pair == pytest.approx(stats.norm.cdf(z), abs=0.05)


def test_the_questions_that_a_claim_needs_have_the_power_that_is_promised():
    """For one factor: the power of the noncentral t distribution at the number that comes out, and one below it."""
    found = Difference(mean=0.05, seeds=1, items=200, by_item=0.25)
    needed = found.items_needed(0.05)
    assert needed is not None

    def power(n):
        limit, centre = stats.t.ppf(0.975, n - 1), 0.05 / math.sqrt(0.25 / n)
        return 1 - stats.nct.cdf(limit, n - 1, centre) + stats.nct.cdf(-limit, n - 1, centre)

    assert power(needed) == pytest.approx(0.8, abs=0.005)
    assert found.seeds_needed(0.05) is None, "nothing is known about seeds"


def test_no_number_of_questions_helps_where_seeds_differ_more_than_the_methods():
    found = Difference(mean=0.01, seeds=3, items=100, by_seed=0.01, by_item=0.1, rest=0.1)
    assert found.items_needed(0.05) is None
    few = Difference(mean=0.1, seeds=3, items=1000, by_seed=0.003, by_item=0.1, rest=0.1)
    seeds = few.seeds_needed(0.05)
    assert seeds is not None
    generator = np.random.default_rng(8)
    parts = (math.sqrt(0.003), math.sqrt(0.1), math.sqrt(0.1))
    tables = 0.1 + crossed(generator, 300, seeds, 1000, *parts)
    assert np.mean([two_way(table).p < 0.05 for table in tables]) == pytest.approx(0.8, abs=0.08)


def test_without_questions_the_two_errors_add_up_as_if_each_had_been_asked_its_own():
    found = unpaired(np.array([0.1, 0.2, 0.3]), math.hypot(0.03, 0.04), 100)
    assert found.stderr == pytest.approx(math.hypot(0.1 / math.sqrt(3), 0.05))
    assert math.isnan(two_way(np.array([[0.3]])).stderr), "one value says nothing about its error"
