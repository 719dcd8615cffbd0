"""One calibration shared by methods that ask for different numbers of examples and different sums."""

import os

import pytest
import torch

from hubinit.calibration import cache, calibrate
from hubinit.calibration.shared import Need, calibrate_shared, segment_ends
from hubinit.data import encode as data
from hubinit.data.encode import Example
from hubinit.models.base import Loaded
from hubinit.numerics.statistics import Statistic
from hubinit.specs import CalibrationSpec, ModelSpec
from tests import texts

POOL = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(9)]
GRADIENTS = frozenset({Statistic.GRADIENT})
MOMENTS = frozenset({Statistic.INPUT_MOMENT, Statistic.OUTPUT_MOMENT})


@pytest.fixture
def loaded():
    spec = ModelSpec(id="tiny/llama", revision="a" * 40)
    return Loaded(texts.language_model(), texts.tokenizer(), spec, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(("samples", "statistics"), [(4, MOMENTS), (7, GRADIENTS), (100, GRADIENTS)])
def test_sharing_changes_no_sum(loaded, tmp_path, samples, statistics):
    needs = [Need(4, MOMENTS), Need(7, GRADIENTS), Need(100, GRADIENTS)]
    settings = CalibrationSpec(samples=samples, max_length=64)
    found = calibrate_shared(loaded, POOL, settings, needs, tmp_path)
    batches = data.batches(POOL[:samples], loaded.processor, batch_size=3, max_length=64)
    alone = calibrate(loaded.model, batches, statistics=statistics)
    assert found.examples == min(samples, 9)
    for name, layer in alone.layers.items():
        assert found.layers[name].tokens == layer.tokens
        for kind in statistics:
            torch.testing.assert_close(found.layers[name].sums[kind], layer.sums[kind], rtol=1e-4, atol=1e-5)


def test_the_second_method_computes_nothing(loaded, tmp_path):
    needs = [Need(4, MOMENTS), Need(7, GRADIENTS)]
    done = []
    for samples in (7, 4, 7):
        settings = CalibrationSpec(samples=samples, max_length=64)
        calibrate_shared(loaded, POOL, settings, needs, tmp_path, on_batch=lambda *seen: done.append(seen))
        assert done == [(1, 1), (1, 1)], "the segments 0–4 and 4–7, once each"


def test_a_memory_budget_is_kept_and_changes_no_sum(loaded, tmp_path):
    plans, needs = [], [Need(4, MOMENTS | GRADIENTS)]
    plain = calibrate_shared(loaded, POOL, CalibrationSpec(samples=4, max_length=64), needs, tmp_path / "plain")
    held = CalibrationSpec(samples=4, max_length=64, memory_budget="40KiB")
    found = calibrate_shared(loaded, POOL, held, needs, tmp_path / "held", on_plan=plans.append)
    assert [plan.budget for plan in plans] == [40 << 10]
    assert plans[0].passes > 1
    assert plans[0].summary in str(plans[0])
    for name, layer in plain.layers.items():
        for kind, value in layer.sums.items():
            torch.testing.assert_close(found.layers[name].sums[kind], value, rtol=1e-4, atol=1e-5)
    again = calibrate_shared(loaded, POOL, held, needs, tmp_path / "plain", on_plan=plans.append)
    assert again.examples == 4
    assert len(plans) == 1  # the same key: what was computed without a limit serves


def test_segments_end_where_a_need_does():
    needs = [Need(4, MOMENTS), Need(7, GRADIENTS), Need(100, GRADIENTS)]
    assert segment_ends(needs, 7, 9) == [4, 7]
    assert segment_ends(needs, 100, 9) == [4, 7, 9]
    assert segment_ends([], 5, 9) == [5]


def test_the_longest_unused_calibrations_go_first_and_the_new_one_stays(tmp_path, monkeypatch) -> None:
    for age, name in enumerate(("new", "used", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sums.safetensors").write_bytes(bytes(600))
        (tmp_path / name / cache.MANIFEST).write_text("{}")
        os.utime(tmp_path / name / cache.MANIFEST, (1000 - age, 1000 - age))
    monkeypatch.setenv("HUBINIT_CALIBRATIONS", "1.5KB")
    cache.prune(tmp_path, keep=tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "used"]
    monkeypatch.setenv("HUBINIT_CALIBRATIONS", "1B")
    cache.prune(tmp_path, keep=tmp_path / "used")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
