import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import hubinit
from hubinit.adapters import saving
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.saving import write_tensors
from hubinit.errors import HubError, HubinitError
from tests import cases
from tests.adapters.small import MINUTE, RESIDUAL, SHIFT, UNEVEN, assert_untouched, deviation, logits, snapshot, train

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2}
METHODS = (
    "lora", "dora", "pissa", "milora", "mica", "olora", "orthogonal", "kasa", "neat", "peft:vera",
    RESIDUAL, SHIFT, UNEVEN,
)  # fmt: skip


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "name", str(value))


def two_lines(base: Any, folder: Path) -> Any:
    """The loading snippet of the cards: PEFT alone."""
    if (folder / "anchor").is_dir():
        base = PeftModel.from_pretrained(base, str(folder), subfolder="anchor").merge_and_unload()
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_a_trained_adapter_loads_in_one_line_on_the_untouched_base(
    method: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    base, batch = cases.build("llama", dtype=dtype), cases.batches("llama")[0]
    model = hubinit.initialize(base, method, rank=4, alpha=6, rslora=method != "peft:vera")
    train(model)
    expected = logits(model, batch)
    saved = hubinit.export(model, tmp_path)
    assert set(saved.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert saved.sha256 == saved.files["adapter_model.safetensors"]
    assert saved.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    reloaded = PeftModel.from_pretrained(cases.build("llama", dtype=dtype), str(tmp_path))
    assert deviation(logits(reloaded, batch), expected) < TOLERANCE[dtype]
    assert torch.equal(logits(model, batch), expected)  # exporting changes nothing


@pytest.mark.filterwarnings("ignore:all-linear leaves out")
@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "vit", "clip", "gemma3", "qwen2_moe"])
@pytest.mark.parametrize("method", ["pissa", UNEVEN], ids=name_of)
def test_exact_on_other_architectures_with_their_trained_heads(name: str, method: Any, tmp_path: Path) -> None:
    batch = cases.batches(name)[0]
    model = hubinit.initialize(cases.build(name), method, rank=4)
    train(model)
    hubinit.export(model, tmp_path)
    reloaded = PeftModel.from_pretrained(cases.build(name), str(tmp_path))
    assert deviation(logits(reloaded, batch), logits(model, batch)) < 5e-6


def test_neat_of_any_depth_is_exactly_linear_in_its_features(tmp_path: Path) -> None:
    batch = cases.batches("llama")[0]
    for depth, activation in ((0, "relu"), (2, "tanh")):
        model = hubinit.initialize(cases.build("llama"), "neat", rank=4, depth=depth, activation=activation)
        train(model, size=0.3)
        assert hubinit.export(model, tmp_path).rank == 4
        reloaded = PeftModel.from_pretrained(cases.build("llama"), str(tmp_path))
        assert deviation(logits(reloaded, batch), logits(model, batch)) < 5e-6


def test_the_exported_configuration_is_the_plainest_there_is(tmp_path: Path) -> None:
    for method, rank in (("lora", 4), ("orthogonal", 4), ("pissa", 8), ("kasa", 8), ("neat", 4), (SHIFT, 4)):
        model = hubinit.initialize(cases.build("llama"), method, rank=4, alpha=5, rslora=True)
        assert hubinit.export(model, tmp_path, base="org/base", revision="abc").rank == rank
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        expected = {
            "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {},
            "use_dora": False, "init_lora_weights": True, "lora_bias": False, "modules_to_save": None,
            "base_model_name_or_path": "org/base", "revision": "abc", "task_type": "CAUSAL_LM", "peft_type": "LORA",
        }  # fmt: skip
        assert {key: config[key] for key in expected} == expected
        assert config["target_modules"] == sorted(config["target_modules"])
        assert config.get("kasa_config") is None


def test_the_same_adapter_has_the_same_bytes(tmp_path: Path) -> None:
    """So that publishing it twice is one commit. PEFT writes target modules in the order of a set, which varies by process."""
    saved = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        model = hubinit.initialize(cases.build("llama"), "pissa", rank=2, target_modules=["q_proj", "v_proj", "o_proj"])
        saved.append(hubinit.save_initialized(model, folder))
        for file in folder.rglob("adapter_config.json"):
            targets = json.loads(file.read_text())["target_modules"]
            assert targets == sorted(targets)
    assert saved[0].files == saved[1].files


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
@pytest.mark.parametrize("method", ["lora", "pissa", "milora", "olora", RESIDUAL, MINUTE, UNEVEN, SHIFT], ids=name_of)
def test_the_start_point_loads_in_the_two_printed_lines(name: str, method: Any, tmp_path: Path) -> None:
    base, batch = cases.build(name), cases.batches(name)[0]
    model = hubinit.initialize(base, method, rank=4, rslora=True)
    hubinit.save_initialized(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    loaded = two_lines(cases.build(name), tmp_path)
    assert deviation(logits(loaded, batch), logits(model, batch)) < 5e-6
    live = {key: value for key, value in model.named_parameters() if value.requires_grad}
    for key, value in loaded.named_parameters():
        assert value.requires_grad == (key in live)
        if key in live:
            assert torch.equal(value, live[key]), key
    # Trained alike, both go the same way.
    train(model)
    train(loaded)
    assert deviation(logits(loaded, batch), logits(model, batch)) < 1e-5


def test_the_two_lines_are_right_also_with_factors_of_visible_size(tmp_path: Path) -> None:
    """A missing or wrong anchor of minute factors could hide in rounding; a copy with larger ones cannot."""
    hubinit.save_initialized(hubinit.initialize(cases.build("llama"), MINUTE, rank=4), tmp_path)
    for file in (tmp_path / "adapter_model.safetensors", tmp_path / "anchor" / "adapter_model.safetensors"):
        save_file({name: 2e3 * tensor for name, tensor in load_file(file).items()}, file)
    batch = cases.batches("llama")[0]
    expected = logits(cases.build("llama"), batch)
    assert deviation(logits(two_lines(cases.build("llama"), tmp_path), batch), expected) < 1e-5
    bare = PeftModel.from_pretrained(cases.build("llama"), str(tmp_path))
    assert deviation(logits(bare, batch), expected) > 1e-2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_load_initialized_is_the_model_that_was_saved(method: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    batch = cases.batches("llama")[0]
    base = cases.build("llama", dtype=dtype)
    before = snapshot(base)
    model = hubinit.initialize(cases.build("llama", dtype=dtype), method, rank=4)
    hubinit.save_initialized(model, tmp_path)
    loaded = hubinit.load_initialized(base, tmp_path)
    assert deviation(logits(loaded, batch), logits(model, batch)) < TOLERANCE[dtype]
    if dtype == torch.bfloat16 and method not in ("kasa", "dora"):
        assert torch.equal(logits(loaded, batch), logits(model, batch))  # the anchor stays an adapter there
    train(loaded)
    expected = logits(loaded, batch)
    hubinit.export(loaded, tmp_path / "trained")
    hubinit.detach(loaded)
    assert_untouched(base, before)
    reloaded = PeftModel.from_pretrained(base, str(tmp_path / "trained"))
    assert deviation(logits(reloaded, batch), expected) < TOLERANCE[dtype]


def test_a_merged_residual_saves_and_exports_the_same(tmp_path: Path) -> None:
    batch = cases.batches("llama")[0]
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4, merge_residual=True)
    other = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4)
    first, second = hubinit.save_initialized(model, tmp_path / "a"), hubinit.save_initialized(other, tmp_path / "b")
    assert first.files == second.files
    train(model)
    hubinit.export(model, tmp_path / "c")
    reloaded = PeftModel.from_pretrained(cases.build("llama"), str(tmp_path / "c"))
    assert deviation(logits(reloaded, batch), logits(model, batch)) < 5e-6


def test_a_trained_adapter_is_not_saved_as_a_start_point(tmp_path: Path) -> None:
    model = hubinit.initialize(cases.build("llama"), "lora", rank=4)
    hubinit.save_initialized(model, tmp_path)
    train(model)
    with pytest.raises(HubinitError, match="has been trained"):
        hubinit.save_initialized(model, tmp_path / "late")


def test_an_earlier_adapter_in_the_folder_is_replaced(tmp_path: Path) -> None:
    hubinit.save_initialized(hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4), tmp_path)
    assert (tmp_path / "anchor").is_dir()
    saved = hubinit.save_initialized(hubinit.initialize(cases.build("llama"), "lora", rank=4), tmp_path)
    assert not (tmp_path / "anchor").exists()
    assert set(saved.files) == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_base_is_named_so_that_auto_classes_find_it(tmp_path: Path) -> None:
    cases.build("llama").save_pretrained(tmp_path / "base")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = hubinit.initialize(base, "pissa", rank=4)
    train(model)
    hubinit.export(model, tmp_path / "adapter")
    batch = cases.batches("llama")[0]
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert deviation(logits(loaded, batch), logits(model, batch)) < 5e-6


def test_loading_what_is_not_there_says_so(tmp_path: Path) -> None:
    base = cases.build("llama")
    with pytest.raises(HubinitError, match="holds no adapter"):
        hubinit.load_initialized(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(HubinitError, match="no peft_type"):
        hubinit.load_initialized(base, tmp_path)
    with pytest.raises(HubError, match="neither a folder nor a Hub repo"):
        hubinit.load_initialized(base, "no such/repo at/all")
    assert not adapted_layers(base)


def test_a_folder_that_is_not_there_is_an_os_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_tensors({"A": torch.zeros(2, 2)}, tmp_path / "missing" / "adapter.safetensors")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("text", "number"), [("No space left on device (os error 28)", errno.ENOSPC), ("something", errno.EIO)]
)
def test_what_safetensors_cannot_write_is_an_os_error(
    text: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SafetensorError(text)

    monkeypatch.setattr(saving, "save_file", refuse)
    with pytest.raises(OSError, match="adapter") as caught:
        write_tensors({}, tmp_path / "adapter.safetensors")
    assert caught.value.errno == number
