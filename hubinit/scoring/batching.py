"""Batches that become smaller where memory does not suffice."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def in_batches(
    items: Sequence[T], size: int, run: Callable[[Sequence[T]], None], weight: Callable[[T], int] = lambda item: 1
) -> None:
    """Runs through items, batch by batch; out of memory, a batch is done again in halves, and so are those after it.

    Args:
        items: in the order in which they are run, the largest first, so that memory runs out at the beginning.
        size: of a batch, as the sum of its weights; an item that is heavier by itself is a batch of its own.
        run: works on one batch, and changes nothing when it runs out of memory.
        weight: of an item.

    Raises:
        torch.OutOfMemoryError: one item by itself is too large.
    """
    start = 0
    while start < len(items):
        end, load = start + 1, weight(items[start])
        while end < len(items) and load + weight(items[end]) <= size:
            load += weight(items[end])
            end += 1
        try:
            run(items[start:end])
        except torch.OutOfMemoryError:
            if end - start == 1:
                raise
            size = load // 2
        else:
            start = end
