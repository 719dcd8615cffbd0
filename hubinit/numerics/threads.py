"""How the solves of many layers use the CPU's threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits

# Up to this dimension LAPACK gains little from a second thread, and loses a lot where the threads wait for a core that another
# process holds: a QR of 1536 × 96 took 2 ms on one thread and 373 ms on two of a busy machine.
SIDE_BY_SIDE_UP_TO = 2048
WORKERS = 8  # layers solved at once at most: each needs some hundred megabytes

Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]  # as `list(map(…))`


@contextmanager
def solvers(size: int, device: torch.device) -> Iterator[Map]:
    """Gives a `map` over layers. On a CPU small layers are solved side by side, each on one thread; others one by one, on all.

    Args:
        size: the largest dimension of the matrices that are factorised.
        device: where they are.
    """
    before = torch.get_num_threads()
    if size > SIDE_BY_SIDE_UP_TO or device.type != "cpu":
        yield lambda work, items: [work(item) for item in items]
        return
    torch.set_num_threads(1)  # new threads inherit it
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(before, WORKERS)) as pool:
            yield lambda work, items: list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)
