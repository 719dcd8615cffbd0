from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hubinit
from hubinit.adapters.anchor import ADAPTER, ANCHOR, Anchored
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.gates import TOLERANCE, check_printed, check_reload, check_start, check_trained, logits
from hubinit.adapters.lines import start_lines
from hubinit.adapters.report import adapter_checksum
from hubinit.errors import GateError
from tests import cases
from tests.adapters.small import MINUTE, RESIDUAL, SHIFT, method, train

DTYPES = (torch.float32, torch.bfloat16)
NAMES = ("llama", "gpt2", "vit", "t5")


def start(method: Any, name: str = "llama", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    model = hubinit.initialize(cases.build(name, dtype=dtype), method, rank=4)
    return model, cases.batches(name, dtype=dtype)[0]


def forget(layer: Any) -> None:
    """The anchor is there and nobody uses it."""
    assert isinstance(layer.lora_variant.pop(ADAPTER), Anchored)


def flip(layer: Any) -> None:
    layer.lora_B[ANCHOR].weight.data.neg_()


def stale(layer: Any) -> None:
    """The anchor of another seed."""
    layer.lora_A[ANCHOR].weight.data = layer.lora_A[ANCHOR].weight.data.flip(0)


def unset(layer: Any) -> None:
    """The trained factor was never set, and the anchor stands alone."""
    layer.lora_B["default"].weight.data.zero_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["lora", "pissa", RESIDUAL, MINUTE], ids=["lora", "pissa", "visible", "minute"])
def test_right_starts_pass_and_nothing_is_changed(method: Any, name: str, dtype: torch.dtype) -> None:
    model, batch = start(method, name, dtype)
    before = adapter_checksum(model)
    assert check_start(model, batch, "keep") == 0
    assert adapter_checksum(model) == before
    assert model.training is False
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("sabotage", [forget, flip, stale, unset])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [RESIDUAL, MINUTE], ids=["visible", "minute"])
def test_a_missing_or_wrong_anchor_is_caught(method: Any, name: str, dtype: torch.dtype, sabotage: Any) -> None:
    model, batch = start(method, name, dtype)
    for layer in adapted_layers(model).values():
        sabotage(layer)
    with pytest.raises(GateError, match=r"relative deviation \d\.\d+e[-+]\d+, tolerance"):
        check_start(model, batch, "keep")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_wrong_module_is_enough(dtype: torch.dtype) -> None:
    for name in adapted_layers(start(MINUTE, dtype=dtype)[0]):
        model, batch = start(MINUTE, dtype=dtype)
        flip(adapted_layers(model)[name])
        with pytest.raises(GateError):
            check_start(model, batch, "keep")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shift_must_shift(dtype: torch.dtype) -> None:
    model, batch = start(SHIFT, dtype=dtype)
    assert check_start(model, batch, "shift") > 1e-3
    with pytest.raises(GateError, match="not the base's"):
        check_start(model, batch, "keep")
    model, batch = start(RESIDUAL, dtype=dtype)  # anchored by mistake
    with pytest.raises(GateError, match="exactly the base's"):
        check_start(model, batch, "shift")


@pytest.mark.parametrize("method", ["kasa", "dora", "neat"])
def test_methods_with_adapters_of_their_own(method: str, tmp_path: Path) -> None:
    for dtype in DTYPES:
        model, batch = start(method, dtype=dtype)
        assert check_start(model, batch, "shift" if method == "kasa" else "keep") >= 0
        train(model)
        assert check_trained(model, batch) > 1e-2
        hubinit.export(model, tmp_path)
        check_reload(model, tmp_path, batch)


def test_a_merged_residual_is_measured_as_it_is(tmp_path: Path) -> None:
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4, merge_residual=True)
    batch = cases.batches("llama")[0]
    assert 0 < check_start(model, batch, "keep") < 1e-5
    train(model)
    hubinit.export(model, tmp_path)
    assert check_reload(model, tmp_path, batch) < 1e-5
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4, merge_residual=True)
    for layer in adapted_layers(model).values():
        layer.get_base_layer().weight.data.copy_(layer.hubinit_original)
    with pytest.raises(GateError):
        check_start(model, batch, "keep")


def test_training_that_did_nothing_is_caught() -> None:
    model, batch = start(SHIFT)
    with pytest.raises(GateError, match="step 0"):
        check_trained(model, batch)
    train(model)
    assert check_trained(model, batch) > 1e-3
    model, batch = start("lora")
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_A[ADAPTER].weight += 1  # B is still zero
    with pytest.raises(GateError, match="exactly the base's"):
        check_trained(model, batch)


def test_logits_that_are_not_finite_are_caught() -> None:
    model, batch = start("lora")
    next(iter(adapted_layers(model).values())).lora_B[ADAPTER].weight.data.fill_(torch.nan)
    with pytest.raises(GateError, match="NaN or infinity"):
        check_trained(model, batch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["lora", RESIDUAL, MINUTE, SHIFT], ids=["lora", "visible", "minute", "shift"])
def test_the_reload_gate_passes_what_is_exact_and_catches_a_dropped_anchor(
    method: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, batch = start(method, dtype=dtype)
    train(model, size=1e-6 if method is MINUTE else 0.05)
    hubinit.export(model, tmp_path)
    before = adapter_checksum(model)
    fresh = cases.build("llama", dtype=dtype)
    measured = check_reload(model, tmp_path, batch)
    assert measured <= (1e-5 if dtype == torch.float32 else 2e-2)
    assert check_reload(model, tmp_path, batch, fresh) == measured
    assert check_reload(model, tmp_path, batch, lambda: cases.build("llama", dtype=dtype)) == measured
    assert not adapted_layers(fresh)
    assert adapter_checksum(model) == before
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {ADAPTER}
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor[:, 4:] = 0  # the anchor's columns, where there are any
            if method in ("lora", SHIFT):
                tensor.neg_()
    save_file(tensors, file)
    with pytest.raises(GateError, match="not the one in memory"):
        check_reload(model, tmp_path, batch)


def test_where_half_precision_is_too_coarse_float32_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter whose large terms cancel is right, and one of another sign is not, whatever bfloat16 makes of their logits."""
    model, batch = start(RESIDUAL, dtype=torch.bfloat16)
    train(model, size=0.05)
    monkeypatch.setitem(TOLERANCE, torch.bfloat16, 0.0)
    hubinit.export(model, tmp_path)
    before = {name: (value.dtype, value.clone()) for name, value in model.state_dict().items()}
    assert check_reload(model, tmp_path, batch) < 1e-5
    after = model.state_dict()
    assert all(
        after[name].dtype == dtype and torch.equal(after[name], value) for name, (dtype, value) in before.items()
    )
    factors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: -value if "lora_B" in name else value for name, value in factors.items()},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(GateError, match="tolerance 1e-04"):
        check_reload(model, tmp_path, batch)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "opt"])
def test_dora_passes_in_bf16_on_layers_with_a_bias(name: str) -> None:
    model, batch = start("dora", name, torch.bfloat16)
    check_start(model, batch, "keep")


def test_a_gate_leaves_the_forward_passes_as_they_were() -> None:
    model, batch = start(RESIDUAL)
    check_start(model, batch, "keep")
    assert not [layer for layer in adapted_layers(model).values() if "forward" in layer.get_base_layer().__dict__]


def flip_the_factor(layer: Any) -> None:
    layer.lora_B[ADAPTER].weight.data.neg_()


def double_the_factor(layer: Any) -> None:
    layer.lora_B[ADAPTER].weight.data.mul_(2)


def halve_the_scaling(layer: Any) -> None:
    layer.scaling[ADAPTER] /= 2


def flip_the_scaling(layer: Any) -> None:
    layer.scaling[ADAPTER] *= -1


def swap_the_factors_of_another_seed(layer: Any) -> None:
    """The same size, another direction."""
    layer.lora_A[ADAPTER].weight.data = layer.lora_A[ADAPTER].weight.data.flip(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_right_shift_passes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, batch = start(SHIFT, name, dtype)
    assert check_start(model, batch, "shift") > 0
    hubinit.save_initialized(model, tmp_path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    measured = check_printed(model, tmp_path, batch, "shift")
    assert measured is not None
    assert measured < 1e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "sabotage",
    [flip_the_factor, double_the_factor, halve_the_scaling, flip_the_scaling, swap_the_factors_of_another_seed],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", [SHIFT, method("minute-shift", 1e-3, start="shift")], ids=["visible", "minute"])
def test_a_shift_of_the_wrong_sign_scale_or_size_is_caught(method: Any, dtype: torch.dtype, sabotage: Any) -> None:
    for name in (None, "model.layers.1.mlp.down_proj"):
        model, batch = start(method, dtype=dtype)
        for layer_name, layer in adapted_layers(model).items():
            if name in (None, layer_name):
                sabotage(layer)
        with pytest.raises(GateError, match="start gate"):
            check_start(model, batch, "shift")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "chosen", ["lora", "dora", "pissa", "mica", "kasa", RESIDUAL, MINUTE], ids=lambda m: getattr(m, "name", m)
)
def test_the_printed_lines_of_right_starts_pass(chosen: Any, name: str, tmp_path: Path) -> None:
    if (name, chosen) == ("gpt2", "kasa"):
        pytest.skip("PEFT's KaSA refuses Conv1D")
    for dtype in DTYPES:
        model, batch = start(chosen, name, dtype)
        promised = "shift" if chosen == "kasa" else "keep"
        hubinit.save_initialized(model, tmp_path)
        expected = logits(model, batch)
        measured = check_printed(model, tmp_path, batch, promised)
        assert measured is not None
        assert measured < 1e-5
        assert torch.equal(logits(model, batch), expected)
        assert {p.dtype for n, p in model.named_parameters() if "base_layer" in n} == {dtype}


def test_the_printed_lines_of_a_start_that_lost_its_anchor_are_caught(tmp_path: Path) -> None:
    for chosen, reason in ((RESIDUAL, "printed lines do not rebuild"), (MINUTE, "are not the start in memory in")):
        model, batch = start(chosen)
        hubinit.save_initialized(model, tmp_path)
        file = tmp_path / "anchor" / "adapter_model.safetensors"
        save_file({key: tensor * ("lora_A" in key) for key, tensor in load_file(file).items()}, file)
        with pytest.raises(GateError, match=reason):
            check_printed(model, tmp_path, batch, "keep")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_factors_of_another_sign_are_caught_also_where_the_start_shifts(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, batch = start(SHIFT, dtype=dtype)
    hubinit.save_initialized(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({key: -tensor if "lora_B" in key else tensor for key, tensor in load_file(file).items()}, file)
    with pytest.raises(GateError, match="start gate"):
        check_printed(model, tmp_path, batch, "shift")


def test_printed_lines_that_train_what_is_frozen_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = start("mica")
    hubinit.save_initialized(model, tmp_path)
    assert check_printed(model, tmp_path, batch, "keep") == 0
    monkeypatch.setattr("hubinit.adapters.gates.start_lines", lambda *a, **k: start_lines(*a, **{**k, "frozen": ()}))
    with pytest.raises(GateError, match="leave lora_B trainable"):
        check_printed(model, tmp_path, batch, "keep")


def test_dora_starts_at_a_bfloat16_base_in_every_layer() -> None:
    """PEFT's magnitudes are bfloat16 there, up to 2⁻⁹ off."""
    model, batch = start("dora", dtype=torch.bfloat16)
    for name, layer in adapted_layers(model).items():
        norm = layer.get_base_layer().weight.double().norm(dim=1)
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight
        assert magnitude.requires_grad
        assert float((magnitude.double() / norm - 1).abs().max()) < 1e-6, name
    assert check_start(model, batch, "keep") == 0
