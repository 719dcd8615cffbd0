"""The difference of two methods from what both did on the same questions with the same seeds, and how sure it is.

The model is the one of two crossed random factors: d[s, i] = μ + a[s] + b[i] + e[s, i] for seed s and question i. More questions
do not average a seed's luck away, and more seeds do not make a test set larger, so both are resampled in thought: the standard
error is that of the bootstrap over seeds and questions at once (Owen 2007, "The pigeonhole bootstrap"), whose limit for a mean
has a closed form. Its two known biases are taken out: it is too narrow by (n − 1)/n in each factor, and it counts the rest e
three times. What is left are the variance components of the analysis of variance, so nothing here is drawn at random.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
LEVEL = 0.95  # of the intervals
POWER = 0.8  # of the plans for more data
SMALLEST_P = 1e-12
MOST = 10**7  # seeds or questions that a plan may ask for


@dataclass(frozen=True)
class Difference:
    """A mean difference and its variance components.

    Attributes:
        mean: over seeds and questions; NaN where nothing is in common.
        seeds: that both have; 1 where only questions vary, 0 where nothing is in common.
        items: questions that both answered; 1 where there is one value for each seed, such as a loss.
        by_seed: σ²ₐ, variance over seeds. 0 for one seed: it is unknown then, and the interval speaks of these runs only.
        by_item: σ²ᵦ, variance over questions; with one seed it holds the rest too.
        rest: σ²ₑ, of what seed and question do not explain.
        paired: whether the questions were paired; else `by_item` comes from the standard errors of both.
    """

    mean: float
    seeds: int = 0
    items: int = 0
    by_seed: float = 0.0
    by_item: float = math.nan
    rest: float = 0.0
    paired: bool = False

    def variances(self, seeds: float, items: float) -> tuple[tuple[float, float], ...]:
        """Variance and degrees of freedom of each part of the mean, had there been so many seeds and questions."""
        over_items = (self.by_item / items + self.rest / (seeds * items), max(items - 1, 1))
        return (self.by_seed / seeds, max(seeds - 1, 1)), over_items

    @property
    def stderr(self) -> float:
        """Standard error of the mean; NaN where nothing says how large it is."""
        if self.seeds < 2 and self.items < 2:
            return math.nan
        return math.sqrt(sum(variance for variance, _ in self.variances(self.seeds, self.items)))

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval of this level.

        h² = Σ t(dfₖ)² vₖ: each part of the variance with the quantile of its own degrees of freedom. Where one part is all of
        it, this is Student's interval. Simulated coverage of 95 %: 93–98 from three seeds on; with two seeds that differ more
        than the questions can explain, 89 (`benchmarks/interval_coverage.py`).
        """
        if math.isnan(self.stderr):
            return math.nan
        parts = self.variances(self.seeds, self.items)
        return math.sqrt(sum(variance * float(stdtrit(df, (1 + level) / 2)) ** 2 for variance, df in parts))

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - self.half_width()

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + self.half_width()

    @property
    def p(self) -> float:
        """Two-sided p-value: the level at which the interval just reaches 0."""
        if math.isnan(self.stderr) or math.isnan(self.mean):
            return math.nan
        if self.stderr == 0:
            return 1.0 if self.mean == 0 else SMALLEST_P
        parts = [part for part in self.variances(self.seeds, self.items) if part[0] > 0]
        if len(parts) == 1:
            return max(2 * float(stdtr(parts[0][1], -abs(self.mean) / self.stderr)), SMALLEST_P)
        return _root(lambda p: self.half_width(1 - p) - abs(self.mean), SMALLEST_P, 1.0)

    def items_needed(self, alpha: float) -> int | None:
        """Questions, with as many seeds, with which a test at `alpha` finds this difference with 80 % power; None: none do."""
        return self._needed(lambda count: (self.seeds, count), alpha)

    def seeds_needed(self, alpha: float) -> int | None:
        """Seeds, with as many questions, with which a test at `alpha` finds this difference with 80 % power; None: none do.

        None too with one seed: how much seeds vary is unknown.
        """
        return None if self.seeds < 2 else self._needed(lambda count: (count, self.items), alpha)

    def _needed(self, design: Callable[[int], tuple[int, int]], alpha: float) -> int | None:
        """The least count with |mean| ≥ √Σ (t(1 − α/2) + t(power))² vₖ, the usual approximation of a t test's power."""
        if not math.isfinite(self.stderr) or not self.mean or self.items < 2:
            return None

        def is_enough(count: int) -> bool:
            parts = self.variances(*design(count))
            margins = (v * float(stdtrit(df, 1 - alpha / 2) + stdtrit(df, POWER)) ** 2 for v, df in parts)
            return sum(margins) <= self.mean**2

        if not is_enough(MOST):
            return None
        low, high = 1, MOST  # low is too few
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high


NOTHING_IN_COMMON = Difference(mean=math.nan)


def two_way(differences: Array) -> Difference:
    """The difference from one value for each seed and question.

    Args:
        differences: [seeds, items], both at least 1; of one column, there is one value for each seed.
    """
    seeds, items = differences.shape
    mean = float(differences.mean())
    if seeds == 1 or items == 1:
        variance = float(differences.var(ddof=1)) if differences.size > 1 else math.nan
        if items == 1:
            return Difference(mean, seeds, 1, by_seed=variance, by_item=0.0, paired=True)
        return Difference(mean, 1, items, by_item=variance, paired=True)
    rows = differences.mean(axis=1)  # [seeds]
    columns = differences.mean(axis=0)  # [items]
    # Σe² = Σd² − N Σ(rows − mean)² − S Σ(columns − mean)² around the mean
    of_rows = items * float(((rows - mean) ** 2).sum())
    of_columns = seeds * float(((columns - mean) ** 2).sum())
    of_rest = max(float(((differences - mean) ** 2).sum()) - of_rows - of_columns, 0.0)
    rest = of_rest / ((seeds - 1) * (items - 1))
    return Difference(
        mean,
        seeds,
        items,
        by_seed=max(of_rows / (seeds - 1) - rest, 0.0) / items,
        by_item=max(of_columns / (items - 1) - rest, 0.0) / seeds,
        rest=rest,
        paired=True,
    )


def unpaired(differences: Array, stderr: float, items: int) -> Difference:
    """The difference where the questions' own values are unknown.

    Args:
        differences: [seeds], of the scores of both.
        stderr: of the difference of two scores, √(se₁² + se₂²): as if both had been asked questions of their own.
        items: questions of each.
    """
    by_seed = float(differences.var(ddof=1)) if len(differences) > 1 else 0.0
    return Difference(float(differences.mean()), len(differences), items, by_seed=by_seed, by_item=items * stderr**2)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function of a p-value is 0, found over its logarithm."""
    if function(low) <= 0:
        return low
    return math.exp(brentq(lambda log: function(math.exp(log)), math.log(low), math.log(high), xtol=1e-7, rtol=1e-7))
