"""The stages of one run, with a tiny model in memory."""

from types import SimpleNamespace
from typing import Any

import hubinit
from hubinit.runs.stages import attach_start
from hubinit.specs import MethodSpec, ModelSpec, RunSpec
from tests import cases


def test_the_start_knows_the_length_of_the_training_set_and_an_option_wins() -> None:
    base = cases.build("llama")
    calibration = hubinit.calibrate(base, cases.batches("llama"), methods=["lora-da"])
    loaded: Any = SimpleNamespace(model=base)
    for options, expected in (({}, 4321), ({"population_size": 7}, 7)):
        method = MethodSpec(name="lora-da", options=options)
        spec = RunSpec(model=ModelSpec(id="org/tiny"), method=method, rank=2, alpha=4)
        model = attach_start(spec, loaded, calibration, population=4321)
        assert model.hubinit_report.summary()["population_size_mean"] == expected
        hubinit.detach(model)
