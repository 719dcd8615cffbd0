"""Which lines of a table nothing beats: the Pareto front of a score against a cost."""

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one dominates, from the cheapest to the dearest.

    A point dominates another where it costs no more and scores no less, and one of the two is better.

    Args:
        points: cost and score of each.

    Returns:
        Their positions; equal points are all there.
    """
    order = sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1]))
    front: list[int] = []
    for one in order:
        if not front or points[one][1] > points[front[-1]][1] or points[one] == points[front[-1]]:
            front.append(one)
    return front
