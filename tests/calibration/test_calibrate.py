"""`calibrate` against brute force on every architecture, and everything it must not depend on."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from hubinit.calibration import Calibration, Statistic, calibrate
from hubinit.calibration.products import sum_dtype
from hubinit.errors import CalibrationError
from hubinit.layers import shape_of, target_layers
from tests import cases
from tests.calibration import oracle

EVERY = frozenset(Statistic)
FILET = frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})


def assert_same(a: Calibration, b: Calibration, rtol: float = 1e-9, kinds: Iterable[Statistic] = EVERY) -> None:
    assert a.layers.keys() == b.layers.keys()
    for name in a.layers:
        assert (a.layers[name].tokens, a.layers[name].examples) == (b.layers[name].tokens, b.layers[name].examples)
        for kind in kinds:
            close(a.layers[name].sums[kind], b.layers[name].sums[kind], rtol, f"{kind} of {name}")


def close(a: torch.Tensor, b: torch.Tensor, rtol: float, what: str) -> None:
    scale = b.abs().max().item()
    assert scale > 0, what  # a statistic that is zero would prove nothing
    error = (a.double() - b.double()).abs().max().item() / scale
    assert error < rtol, f"{what}: {error:.1e}"


@pytest.mark.parametrize("name", cases.EVERYTHING)
@pytest.mark.filterwarnings("ignore:mixture-of-experts")
def test_every_statistic_equals_brute_force(name: str) -> None:
    data = cases.batches(name, examples=4, dtype=torch.float64)
    expected = oracle.statistics(name, cases.build(name), data)
    model = cases.build(name, dtype=torch.float64)
    # The union has moments to derive energies from; FILet alone has its own; a small budget streams them.
    for kinds, budget in ((EVERY, None), (FILET, None), (FILET, 24 * 1024)):
        found = calibrate(model, data, statistics=kinds, memory_budget=budget)
        assert found.statistics == kinds
        assert found.layers.keys() == expected.keys()
        for layer, sums in expected.items():
            assert found.layers[layer].tokens == sums["tokens"]
            assert found.layers[layer].examples == sums["examples"]
            for kind in kinds:
                if sums[kind].abs().max() == 0:
                    assert found.layers[layer].sums[kind].abs().max() == 0
                else:
                    close(found.layers[layer].sums[kind], sums[kind], 1e-8, f"{kind} of {layer}")
