"""What methods ask of a calibration."""

import pytest

from hubinit.adapters.calibrating import calibrate, need_of
from hubinit.calibration.shared import Need
from hubinit.errors import CalibrationError
from hubinit.numerics.statistics import Statistic
from hubinit.specs import CalibrationSpec, MethodSpec
from tests import cases

FILET = frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})


def test_method_names_and_options() -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    assert calibrate(model, data, methods=["lora", "filet"]).statistics == FILET
    exact = calibrate(model, data, methods=[("filet", {"scaling": "svd"})], statistics={Statistic.INPUT_SUM})
    assert exact.statistics == {Statistic.INPUT_SUM, Statistic.INPUT_MOMENT, Statistic.OUTPUT_MOMENT}
    with pytest.raises(CalibrationError, match=r"lora: nothing to calibrate"):
        calibrate(model, data, methods=["lora"])


def test_a_method_needs_what_its_options_say() -> None:
    calibration = CalibrationSpec(samples=5)
    assert need_of(MethodSpec(name="pissa"), calibration) == Need(5, frozenset())
    assert need_of(MethodSpec(name="filet"), calibration) == Need(5, FILET)
