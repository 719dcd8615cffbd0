"""How many CPU threads a factorisation gets."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Up to this dimension LAPACK gains nothing from a second thread, and loses a lot where the threads wait for a core that another
# process holds: a QR of 1536 × 96 took 2 ms on one thread and 373 ms on two of a busy machine.
SMALL = 2048


@contextmanager
def solver_threads(size: int) -> Iterator[None]:
    """One CPU thread for the block where matrices are small; as many as before after it. GPUs do not mind.

    Args:
        size: the largest dimension of the matrices that are factorised.
    """
    before = torch.get_num_threads()
    if size <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
