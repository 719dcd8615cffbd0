"""Small layers side by side on one thread each, and the caller's number of threads afterwards."""

import threading

import pytest
import torch

from hubinit.numerics.threads import SIDE_BY_SIDE_UP_TO, solvers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_layers_are_solved_side_by_side_on_one_thread_each():
    together = threading.Barrier(2, timeout=20)  # breaks unless two workers meet

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    with solvers(SIDE_BY_SIDE_UP_TO, CPU) as map_over:
        assert map_over(work, range(4)) == [(item, 1) for item in range(4)]
    assert torch.get_num_threads() == 2


def test_large_layers_are_solved_one_by_one_on_all_threads():
    with solvers(SIDE_BY_SIDE_UP_TO + 1, CPU) as map_over:
        found = map_over(lambda item: (item, torch.get_num_threads(), threading.current_thread()), range(3))
    assert found == [(item, 2, threading.main_thread()) for item in range(3)]


def test_an_error_comes_through_and_the_threads_come_back():
    with pytest.raises(ZeroDivisionError), solvers(8, CPU) as map_over:
        map_over(lambda item: 1 // item, [1, 0, 1])
    assert torch.get_num_threads() == 2
