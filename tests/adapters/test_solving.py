"""Many layers at once: what is shared is computed once, and neither sharing nor threads change a result."""

from typing import Any

import pytest
import torch

import hubinit
from hubinit.adapters.passthrough import low_rank
from hubinit.adapters.solving import redistribute
from hubinit.errors import InitialisationError
from hubinit.methods import corda
from tests import cases

DATA_AWARE = ("lora-da", "eva", "corda")


def factors(name: str, calibration: Any, targets: Any = "all-linear", threads: int = 1) -> dict[str, torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        base = cases.build("llama", dtype=torch.float64)
        options = {"rho": 1} if name == "eva" else {}
        model = hubinit.initialize(base, name, rank=4, calibration=calibration, target_modules=targets, **options)
    finally:
        torch.set_num_threads(before)
    return {key: value.detach() for key, value in model.named_parameters() if ".default." in key}


@pytest.fixture(scope="module")
def calibration() -> Any:
    data = cases.batches("llama", examples=8, dtype=torch.float64)
    return hubinit.calibrate(cases.build("llama", dtype=torch.float64), data, methods=list(DATA_AWARE))


@pytest.mark.parametrize("name", DATA_AWARE)
def test_a_layer_alone_gets_what_it_gets_beside_those_that_share_its_input(name: str, calibration: Any) -> None:
    together, alone = factors(name, calibration), factors(name, calibration, ["v_proj", "up_proj"])
    assert alone
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["pissa", *DATA_AWARE])
def test_threads_change_nothing(name: str, calibration: Any) -> None:
    one, four = factors(name, calibration), factors(name, calibration, threads=4)
    assert one.keys() == four.keys()
    assert all(torch.equal(one[key], four[key]) for key in one)


def test_layers_of_one_input_share_its_factorisation(calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = corda.damped_cholesky
    monkeypatch.setattr(corda, "damped_cholesky", lambda *args: calls.append(1) or real(*args))
    factors("corda", calibration)
    assert len(calls) == 2 * 4  # of two blocks: q/k/v, o, gate/up, down


def test_the_first_layer_that_fails_is_named(calibration: Any) -> None:
    base = cases.build("llama", dtype=torch.float64)
    base.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InitialisationError, match=r"layers\.1\.mlp\.up_proj holds NaN"):
        hubinit.initialize(base, "pissa", rank=4)


def test_redistribution_keeps_the_best_at_the_same_total() -> None:
    assert redistribute({"a": [9, 8, 7], "b": [3, 2], "c": [6, 1]}, 2) == {"a": 3, "b": 2, "c": 1}
    assert redistribute({"a": [], "b": []}, 2) == {"a": 2, "b": 2}
    assert redistribute({"a": [1, 1], "b": [1, 1]}, 1) == {"a": 2, "b": 0}  # ties go to the earlier module


def test_a_change_of_low_rank_is_factorised_exactly_and_others_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 5, generator=generator), torch.randn(5, 60, generator=generator)
    A, B = low_rank(left @ right, 5, "layer")
    assert (A.shape, B.shape) == ((5, 60), (40, 5))
    torch.testing.assert_close(B @ A, left @ right, rtol=1e-5, atol=1e-4)
    with pytest.raises(InitialisationError, match="changed the weight of layer by more than rank 4"):
        low_rank(left @ right, 4, "layer")
