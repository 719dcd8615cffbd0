"""What is frozen stays frozen: `requires_grad` after every way of reloading. PEFT itself trains both factors.

A is frozen in the starts of before the optimisers were an axis: their methods have the option `train_a`.
"""

from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, PeftModel

import hubinit
from hubinit.adapters.freezing import freeze, frozen_by, frozen_in
from hubinit.adapters.lines import run_lines, start_lines
from tests import cases
from tests.adapters.test_anchor import run_trainer

STARTS = [("mica", {}, {"lora_A"}), ("pissa", {"train_a": False}, {"lora_B"}), ("lora", {}, {"lora_A", "lora_B"})]
EACH = pytest.mark.parametrize(("method", "options", "trained"), STARTS, ids=["mica", "pissa-fa", "lora"])


def trained_factors(model: Any) -> set[str]:
    return {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}


def start(method: str, options: dict[str, Any], name: str = "llama") -> Any:
    model = hubinit.initialize(cases.build(name), method, rank=4)
    freeze(model, frozen_by(method, options))
    return model


@EACH
@pytest.mark.parametrize("merged", [True, False])
def test_load_initialized(
    method: str, options: dict[str, Any], trained: set[str], merged: bool, tmp_path: Path
) -> None:
    hubinit.save_initialized(start(method, options), tmp_path)
    model = hubinit.load_initialized(cases.build("llama"), tmp_path, merge_residual=merged)
    assert trained_factors(model) == trained
    model.set_adapter("default")
    with model.disable_adapter():
        pass
    assert trained_factors(model) == trained
    hubinit.detach(model)
    assert not trained_factors(hubinit.load_initialized(cases.build("llama"), tmp_path, trainable=False))


@EACH
def test_the_printed_lines(method: str, options: dict[str, Any], trained: set[str], tmp_path: Path) -> None:
    saved = start(method, options)
    hubinit.save_initialized(saved, tmp_path)
    frozen = frozen_by(method, options)
    lines = start_lines(str(tmp_path), anchored=(tmp_path / "anchor").is_dir(), tied=False, frozen=frozen)
    assert trained_factors(run_lines(lines, cases.build("llama"))) == trained
    assert trained_factors(PeftModel.from_pretrained(cases.build("llama"), str(tmp_path), is_trainable=True)) == {
        "lora_A",
        "lora_B",
    }


@EACH
def test_the_trainers_checkpoints(method: str, options: dict[str, Any], trained: set[str], tmp_path: Path) -> None:
    """Resumed into a new model, and loaded by `load_initialized`: the frozen factor has not moved and is frozen."""
    model = start(method, options)
    run_trainer(model, tmp_path, 2)
    resumed = start(method, options)
    before = {name: parameter.clone() for name, parameter in resumed.named_parameters() if "default" in name}
    run_trainer(resumed, tmp_path / "again", 4, resume=tmp_path / "checkpoint-2")
    for again in (resumed, hubinit.load_initialized(cases.build("llama"), tmp_path / "again" / "checkpoint-4")):
        assert trained_factors(again) == trained
        for name, parameter in again.named_parameters():
            if name in before:
                assert before[name].equal(parameter) == (name.split(".")[-3] not in trained), name


@EACH
def test_the_printed_lines_and_the_trainers_resume(
    method: str, options: dict[str, Any], trained: set[str], tmp_path: Path
) -> None:
    hubinit.save_initialized(start(method, options), tmp_path / "start")
    lines = start_lines(
        str(tmp_path / "start"),
        anchored=(tmp_path / "start" / "anchor").is_dir(),
        tied=False,
        frozen=frozen_by(method, options),
    )
    run_trainer(run_lines(lines, cases.build("llama")), tmp_path, 2)
    resumed = run_lines(lines, cases.build("llama"))
    run_trainer(resumed, tmp_path / "again", 4, resume=tmp_path / "checkpoint-2")
    assert trained_factors(resumed) == trained


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_saved_by_peft_for_a_model_without_a_task(name: str, tmp_path: Path) -> None:
    """PEFT rewrites `auto_mapping` there."""
    start("mica", {}, name).save_pretrained(str(tmp_path))
    trained = trained_factors(hubinit.load_initialized(cases.build(name), tmp_path))
    assert "lora_A" in trained
    assert "lora_B" not in trained


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_other_architectures_with_heads(name: str, tmp_path: Path) -> None:
    hubinit.save_initialized(start("mica", {}, name), tmp_path)
    trained = trained_factors(hubinit.load_initialized(cases.build(name), tmp_path))
    assert "lora_A" in trained
    assert "lora_B" not in trained


def test_a_manifest_says_it_where_the_configuration_does_not(tmp_path: Path) -> None:
    """Starts of version 0.1 have nothing in the configuration."""
    hubinit.save_initialized(start("lora", {}), tmp_path)
    text = '{"result": {"spec": {"method": {"name": "%s", "options": %s}}}}'
    config = PeftConfig.from_pretrained(str(tmp_path))
    for name, options, expected in (
        ("mica", "{}", ("lora_B",)),
        ("pissa", '{"train_a": false}', ("lora_A",)),
        ("neat", '{"train_a": false}', ("lora_A",)),  # exported as plain LoRA
        ("of-somebody-else", "{}", ()),
        ("lora", "[]", ()),
    ):
        (tmp_path / "hubinit.json").write_text(text % (name, options))
        assert frozen_in(tmp_path, config) == expected
    (tmp_path / "hubinit.json").write_text(text % ("mica", "{}"))
    assert trained_factors(hubinit.load_initialized(cases.build("llama"), tmp_path)) == {"lora_A"}
