"""Saving, loading, adding and refusing calibrations, and the cache on disk."""

import json
from pathlib import Path

import pytest
import torch

from hubinit.calibration import Calibration, Statistic, calibrate, load_or_compute
from hubinit.calibration.result import MANIFEST, fingerprint
from hubinit.errors import CalibrationError
from tests import cases
from tests.calibration.test_calibrate import EVERY, FILET, assert_same


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(cases.build("llama"), cases.batches("llama"), statistics=EVERY)


def test_save_and_load_keep_everything_and_share_on_disk(found: Calibration, tmp_path: Path) -> None:
    found.save(tmp_path / "a")
    loaded = Calibration.load(tmp_path / "a")
    assert_same(loaded, found, 1e-30)
    assert (loaded.fingerprint, loaded.loss, loaded.tokens) == (found.fingerprint, found.loss, found.tokens)
    attention = [loaded.layers[f"model.layers.0.self_attn.{name}_proj"] for name in "qkv"]
    assert attention[0].sums[Statistic.INPUT_MOMENT] is attention[2].sums[Statistic.INPUT_MOMENT]
    unique = {id(t): t.nbytes for layer in found.layers.values() for t in layer.sums.values()}
    (file,) = (tmp_path / "a").glob("*.safetensors")
    assert file.stat().st_size < sum(unique.values()) + 30_000


def test_saving_again_replaces(found: Calibration, tmp_path: Path) -> None:
    found.save(tmp_path)
    calibrate(cases.build("llama"), cases.batches("llama", seed=1), statistics=FILET).save(tmp_path)
    assert Calibration.load(tmp_path).statistics == FILET
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "manifest", "key", "tensors", "version"])
def test_damage_is_detected(found: Calibration, tmp_path: Path, damage: str) -> None:
    found.save(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    manifest = tmp_path / MANIFEST
    content = json.loads(manifest.read_text())
    match damage:
        case "flip":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        case "truncate":
            file.write_bytes(file.read_bytes()[:-100])
        case "manifest":
            manifest.write_text(manifest.read_text()[:100])
        case "key":
            del content["fingerprint"]
            manifest.write_text(json.dumps(content))
        case "tensors":
            file.unlink()
        case "version":
            manifest.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(CalibrationError):
        Calibration.load(tmp_path)


def test_nothing_there() -> None:
    with pytest.raises(CalibrationError, match="no calibration in"):
        Calibration.load("/nonexistent")


def test_addition_keeps_common_statistics_and_shared_tensors(found: Calibration) -> None:
    model = cases.build("llama")
    other = calibrate(model, cases.batches("llama", seed=3), statistics={Statistic.INPUT_MOMENT, *FILET})
    total = found + other
    assert total.statistics == {Statistic.INPUT_MOMENT, *FILET}
    assert total.examples == found.examples + other.examples
    layers = [total.layers[f"model.layers.0.self_attn.{name}_proj"] for name in "qk"]
    assert layers[0].sums[Statistic.INPUT_MOMENT] is layers[1].sums[Statistic.INPUT_MOMENT]
    both = cases.batches("llama") + cases.batches("llama", seed=3)
    assert_same(total, calibrate(model, both, statistics=total.statistics), 1e-5)
    assert total.loss == pytest.approx(calibrate(model, both, statistics=FILET).loss, rel=1e-6)


def test_addition_and_check_refuse_what_does_not_belong(found: Calibration) -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    with pytest.raises(CalibrationError, match="`fisher` option"):
        found + calibrate(model, data, statistics=FILET, fisher="sampled")
    with pytest.raises(CalibrationError, match="same layers"):
        found + calibrate(model, data, statistics=FILET, target_modules=["q_proj"])
    other = cases.build("llama", seed=1)
    with pytest.raises(CalibrationError, match="same model"):
        found + calibrate(other, data, statistics=FILET)
    found.check(model)
    found.check(cases.build("llama", dtype=torch.bfloat16))  # the same checkpoint in another dtype
    for wrong in (other, cases.build("mistral")):
        with pytest.raises(CalibrationError, match="another model"):
            found.check(wrong)
    filet = calibrate(model, data, statistics=FILET)
    with pytest.raises(CalibrationError, match=r"no gradient: name the method"):
        filet.check(model, frozenset({Statistic.GRADIENT}))


def test_peft_model_calibrates_as_its_base() -> None:
    from peft import LoraConfig, get_peft_model

    data = cases.batches("llama")
    plain = calibrate(cases.build("llama"), data, statistics=EVERY, target_modules=["q_proj", "up_proj"])
    model = get_peft_model(cases.build("llama"), LoraConfig(target_modules=["q_proj", "up_proj"], r=2)).eval()
    assert fingerprint(model) == fingerprint(cases.build("llama"))
    assert_same(calibrate(model, data, statistics=EVERY, target_modules=["q_proj", "up_proj"]), plain, 1e-5)
    assert any(parameter.requires_grad for parameter in model.parameters())


class Counter:
    """Calibrates, noting what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[frozenset[Statistic]] = []

    def __call__(self, missing: frozenset[Statistic]) -> Calibration:
        self.asked.append(missing)
        return calibrate(cases.build("llama"), cases.batches("llama"), statistics=missing)


def test_cache_computes_only_what_is_missing(found: Calibration, tmp_path: Path) -> None:
    compute = Counter()
    key = {"model": "a", "data": "b"}
    first = load_or_compute(tmp_path, key, {Statistic.INPUT_SUM, *FILET}, compute)
    assert load_or_compute(tmp_path, key, FILET, compute).statistics == first.statistics  # a superset is there
    completed = load_or_compute(tmp_path, key, EVERY, compute)
    assert compute.asked == [{Statistic.INPUT_SUM, *FILET}, EVERY - FILET - {Statistic.INPUT_SUM}]
    assert_same(completed, found, 1e-5)
    assert_same(load_or_compute(tmp_path, key, EVERY, compute), completed, 1e-30)
    load_or_compute(tmp_path, {**key, "data": "c"}, FILET, compute)
    assert len(compute.asked) == 3


def test_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    compute = Counter()
    load_or_compute(tmp_path, {"k": 1}, FILET, compute)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"damaged.*computed again"):
        again = load_or_compute(tmp_path, {"k": 1}, FILET, compute)
    assert compute.asked == [FILET, FILET]
    assert_same(load_or_compute(tmp_path, {"k": 1}, FILET, compute), again, 1e-30)


def test_what_an_older_hubinit_kept_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Counter()
    with monkeypatch.context() as patched:
        patched.setattr("hubinit.calibration.cache.FORMAT", 1)
        load_or_compute(tmp_path, {"k": 1}, FILET, compute)
    load_or_compute(tmp_path, {"k": 1}, FILET, compute)
    load_or_compute(tmp_path, {"k": 1}, FILET, compute)
    assert compute.asked == [FILET, FILET]
