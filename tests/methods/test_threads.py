"""One CPU thread for small factorisations, and the caller's number afterwards."""

import pytest
import torch

from hubinit.methods.threads import SMALL, solver_threads


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_matrices_get_one_thread_and_large_ones_keep_theirs():
    with solver_threads(SMALL):
        assert torch.get_num_threads() == 1
    with solver_threads(SMALL + 1):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error():
    with pytest.raises(ValueError), solver_threads(8):
        raise ValueError
    assert torch.get_num_threads() == 2
