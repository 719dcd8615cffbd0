"""Every method on every architecture: it starts where it promises, or says why it cannot."""

from functools import cache
from typing import Any

import pytest
import torch

import hubinit
from hubinit.adapters.gates import check_reload, check_start, check_trained
from hubinit.errors import CalibrationError, InitialisationError
from hubinit.methods import METHODS, get
from tests import cases
from tests.adapters.small import assert_untouched, snapshot, train

DATA_AWARE = tuple(name for name, method in METHODS.items() if method.statistics(method.options()))
REFUSED = {("gpt2", "kasa"): "Conv1D", ("gpt2", "neat"): "Conv1D"}


@cache
def prepare(name: str) -> tuple[Any, Any, Any]:
    """One base of each architecture serves all methods, as in a sweep; with its batch and its calibration."""
    base, batches = cases.build(name), cases.batches(name)
    return base, batches[0], hubinit.calibrate(base, batches, methods=DATA_AWARE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:all-linear leaves out")
@pytest.mark.parametrize("name", cases.EVERYTHING)
def test_starts_where_it_promises(name: str, method: str) -> None:
    base, batch, calibration = prepare(name)
    before = snapshot(base)
    if reason := REFUSED.get((name, method)):
        with pytest.raises(InitialisationError, match=reason):
            hubinit.initialize(base, method, rank=4)
    else:
        model = hubinit.initialize(base, method, rank=4, calibration=calibration)
        check_start(model, batch, get(method).start)
        hubinit.detach(model)
    assert_untouched(base, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_trains_and_reloads(method: str, dtype: torch.dtype, tmp_path: Any) -> None:
    base, batches = cases.build("llama", dtype=dtype), cases.batches("llama")
    model = hubinit.initialize(base, method, rank=4, alpha=4, rslora=True, batches=batches)
    trained = {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert get(method).a_parameter in trained or method == "mica"
    check_start(model, batches[0], get(method).start)
    train(model)
    check_trained(model, batches[0])
    hubinit.export(model, tmp_path)
    check_reload(model, tmp_path, batches[0])


def test_a_calibration_must_be_of_this_model_and_these_targets_and_hold_what_is_needed() -> None:
    base, _, calibration = prepare("llama")
    other = cases.build("llama", seed=1)
    with pytest.raises(CalibrationError, match="another model"):
        hubinit.initialize(other, "filet", rank=4, calibration=calibration)
    narrow = hubinit.calibrate(base, cases.batches("llama"), methods=["eva"], target_modules=["q_proj"])
    with pytest.raises(CalibrationError, match="the calibration has no gradient"):
        hubinit.initialize(base, "lora-one", rank=4, calibration=narrow, target_modules=["q_proj"])
    with pytest.raises(CalibrationError, match=r"no statistics of .*k_proj"):
        hubinit.initialize(base, "eva", rank=4, calibration=narrow, target_modules=["q_proj", "k_proj"])
    with pytest.raises(CalibrationError, match="data-aware"):
        hubinit.initialize(base, "eva", rank=4)


def test_batches_and_calibration_are_two_ways_to_the_same_factors() -> None:
    base = cases.build("llama")
    calibration = hubinit.calibrate(base, cases.batches("llama"), methods=["filet"])
    first = hubinit.initialize(base, "filet", rank=4, calibration=calibration).hubinit_report.checksum
    hubinit.detach(base)
    second = hubinit.initialize(base, "filet", rank=4, batches=cases.batches("llama")).hubinit_report.checksum
    hubinit.detach(base)
    assert first == second
