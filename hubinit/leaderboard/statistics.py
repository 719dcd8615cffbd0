"""What may be said of several methods at once: marks that are corrected, places with ties, and how often each is the best."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hubinit.leaderboard.paired import Array

ALPHA = 0.05
REPLICATES = 1000
SEED = 0  # of the bootstrap: a table is a function of its results


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's steps (1979); NaN stays NaN and counts for nothing.

    Holm and not Benjamini–Hochberg: a mark in a leaderboard is read as a claim by itself, so the chance of *any* wrong mark in a
    table is held to 5 %, whatever the dependence: all methods are compared with the same runs of LoRA.
    """
    known = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    highest = 0.0
    for done, (value, place) in enumerate(known):
        highest = max(highest, min((len(known) - done) * value, 1.0))
        corrected[place] = highest
    return corrected


def places(p: NDArray[np.float64]) -> list[int]:
    """Places with ties of methods in the order of their values.

    The first leads, and every method that is not significantly worse than the leader shares its place. The best of the others
    leads the next place, and so on; as in sport, a place counts all that stand before it. Because who leads is chosen by
    looking, the p-values are corrected over all pairs of the table.

    Args:
        p: [methods, methods], the p-value of each pair, the same on both sides; NaN: not comparable, so a tie.
    """
    count = len(p)
    above = np.triu_indices(count, 1)
    corrected = np.full((count, count), math.nan)
    corrected[above] = holm(p[above].tolist())
    found = [0] * count
    left = list(range(count))
    while left:
        leader = left[0]
        tied = [one for one in left if one == leader or not corrected[leader, one] < ALPHA]
        for one in tied:
            found[one] = count - len(left) + 1
        left = [one for one in left if one not in tied]
    return found


def best_shares(values: Array) -> list[float]:
    """How often each method has the highest mean when seeds and questions are drawn again, the same ones for all.

    The bootstrap over seeds and questions. Of S seeds S − 1 are drawn, which makes its variance over seeds unbiased (Rao and Wu
    1988); with one seed only the questions are drawn. Methods that are equally good share.

    Args:
        values: [methods, seeds, items].

    Returns:
        Shares that add up to 1.
    """
    methods, seeds, items = values.shape
    means = np.zeros((methods, REPLICATES))
    of_seeds = _draws(seeds, max(seeds - 1, 1)) if seeds > 1 else np.ones((REPLICATES, 1), np.float32)
    of_items = _draws(items, items) if items > 1 else np.ones((REPLICATES, 1), np.float32)
    for method, one in enumerate(values):
        by_seed = one.astype(np.float32) @ of_items.T  # [seeds, items] @ [items, replicates] = [seeds, replicates]
        means[method] = (of_seeds.T * by_seed).sum(axis=0)  # [replicates]
    best = np.isclose(means, means.max(axis=0), rtol=0, atol=1e-6)  # [methods, replicates]
    return [float(share) for share in (best / best.sum(axis=0)).mean(axis=1)]


@lru_cache(maxsize=8)
def _draws(count: int, size: int) -> NDArray[np.float32]:
    """[replicates, count]: the weight of each of `count` when `size` are drawn with replacement; they add up to 1."""
    generator = np.random.default_rng([SEED, count, size])
    return (generator.multinomial(size, np.full(count, 1 / count), size=REPLICATES) / size).astype(np.float32)
