"""Every method from calibration to reload on a GPU; on the CPU one method, so that these tests themselves are tested."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hubinit
from hubinit.adapters.gates import check_reload, check_start, check_trained
from hubinit.calibration import Statistic, calibrate
from hubinit.methods import METHODS, get
from hubinit.models.dtype import choose_dtype
from hubinit.specs import ModelSpec
from tests import cases
from tests.adapters.small import train

GPU = [pytest.param("cuda", name, marks=pytest.mark.gpu) for name in METHODS]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def moved(batch: cases.Batch, device: str) -> cases.Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("device", "method"), [("cpu", "filet"), *GPU])
def test_starts_trains_and_reloads(device: str, method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = cases.build("llama", dtype=dtype).to(device)
    batches = [moved(batch, device) for batch in cases.batches("llama")]
    model = hubinit.initialize(base, method, rank=4, batches=batches)
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    check_start(model, batches[0], get(method).start)
    train(model)
    check_trained(model, batches[0])
    hubinit.export(model, tmp_path)
    check_reload(model, tmp_path, batches[0])


@pytest.mark.parametrize("device", DEVICES)
def test_statistics_are_those_of_the_cpu(device: str) -> None:
    """The CPU's are held to float64 oracles in tests/calibration."""
    statistics: Any = frozenset(Statistic)
    expected = calibrate(cases.build("llama"), cases.batches("llama"), statistics=statistics)
    found = calibrate(cases.build("llama").to(device), cases.batches("llama"), statistics=statistics)
    for name, layer in expected.layers.items():
        for kind, value in layer.sums.items():
            error = (found.layers[name].sums[kind].cpu() - value).norm() / value.norm()
            assert error < 1e-4, f"{kind} of {name}: {error:.1e}"


@pytest.mark.gpu
def test_bfloat16_where_the_gpu_has_it() -> None:
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_dtype(ModelSpec(id="org/any")) == ("bfloat16" if native else "float32")
