"""`finish`, through every way to train from the two printed lines: the result is the trained model, on the untouched base."""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

import hubinit
from hubinit.adapters.finish import finish_files
from hubinit.errors import HubinitError
from tests import cases
from tests.adapters.small import MINUTE, RESIDUAL, SHIFT, UNEVEN, deviation, logits, train

EXACT = 1e-5  # relative, of logits in float32
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "report_to": "none",
    "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


def made(method: Any, folder: Path, name: str = "llama", seed: int = 0, **options: Any) -> Path:
    """A start point on disk."""
    model = hubinit.initialize(cases.build(name), method, rank=4, seed=seed, **options)
    hubinit.save_initialized(model, folder)
    return folder


def two_lines(start: Path, name: str = "llama") -> PeftModel:
    """What the cards print."""
    base = cases.build(name)
    if (start / "anchor").is_dir():
        base = PeftModel.from_pretrained(base, str(start), subfolder="anchor").merge_and_unload()
    return PeftModel.from_pretrained(base, str(start), is_trainable=True)


def on_the_untouched_base(adapter: Path, name: str = "llama") -> torch.Tensor:
    return logits(PeftModel.from_pretrained(cases.build(name), str(adapter)), cases.batches(name)[0])


def rows() -> list[dict[str, Any]]:
    return [{name: values[0] for name, values in batch.items()} for batch in cases.batches("llama", batch_size=1)]


def by_hand(start: Path, out: Path) -> PeftModel:
    model = two_lines(start)
    train(model)
    model.save_pretrained(out)
    return model


def by_the_trainer(start: Path, out: Path) -> PeftModel:
    """Stops after a checkpoint, as after a crash, and resumes in a fresh model."""
    for resume in (None, str(out / "checkpoint-2")):
        model = two_lines(start)
        arguments = TrainingArguments(str(out), max_steps=4 if resume else 2, save_steps=2, **SETTINGS)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows())
        trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(out))
    return model


def by_trl(start: Path, out: Path) -> PeftModel:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tests import texts

    model = two_lines(start)
    tokenizer = texts.tokenizer()
    ids = [{"input_ids": row["input_ids"].tolist()} for row in rows()]
    arguments = SFTConfig(str(out), max_steps=3, bf16=False, **SETTINGS)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(ids), processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(out))
    return trainer.model


def as_llama_factory(start: Path, out: Path) -> PeftModel:
    """`adapter_name_or_path: start/anchor,start` merges every adapter but the last, and resumes the last one."""
    *merged, resumed = f"{start}/anchor,{start}".split(",")
    model: Any = cases.build("llama")
    for adapter in merged:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model = PeftModel.from_pretrained(model, resumed, is_trainable=True)
    arguments = TrainingArguments(str(out), max_steps=3, **SETTINGS)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows())
    trainer.train()
    trainer.save_model(str(out))
    return model


WITH_TRL = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


@pytest.mark.parametrize(
    "trained_by", [by_hand, by_the_trainer, pytest.param(by_trl, marks=WITH_TRL), as_llama_factory]
)
def test_what_any_trainer_saved_becomes_exact_on_the_untouched_base(
    trained_by: Callable[[Path, Path], PeftModel], tmp_path: Path
) -> None:
    start = made("pissa", tmp_path / "start", alpha=6)
    model = trained_by(start, tmp_path / "trained")
    expected = logits(model, cases.batches("llama")[0])
    assert deviation(on_the_untouched_base(tmp_path / "trained"), expected) > 0.05, "the trap"
    assert deviation(logits(two_lines(start), cases.batches("llama")[0]), expected) > 1e-3, "it was trained"
    saved = finish_files(tmp_path / "trained", start, tmp_path / "out")
    assert saved.rank == 8
    assert deviation(on_the_untouched_base(tmp_path / "out"), expected) < EXACT


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("method", [RESIDUAL, MINUTE, UNEVEN], ids=lambda method: method.name)
def test_scalings_patterns_and_trained_heads(method: Any, rslora: bool, name: str, tmp_path: Path) -> None:
    start = made(method, tmp_path / "start", name, rslora=rslora, alpha=5)
    model = two_lines(start, name)
    train(model)
    model.save_pretrained(tmp_path / "trained")
    saved = finish_files(tmp_path / "trained", start, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_alpha"], "hubinit" in str(config)) == (False, config["r"], False)
    assert set(saved.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert deviation(on_the_untouched_base(tmp_path / "out", name), logits(model, cases.batches(name)[0])) < EXACT


def test_no_model_is_needed_and_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    """The base's name comes from the start: a trainer may have loaded a copy with the anchor merged in."""
    start = made(RESIDUAL, tmp_path / "start")
    by_hand(start, tmp_path / "trained")
    for folder, base in ((start, "org/base"), (tmp_path / "trained", "/home/me/merged")):
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    files = [finish_files(tmp_path / "trained", start, tmp_path / out).files for out in ("a", "a", "b")]
    assert files[0] == files[1] == files[2]
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"


def test_factors_in_bfloat16_are_multiplied_in_float32(tmp_path: Path) -> None:
    start = made(RESIDUAL, tmp_path / "start", alpha=5)
    by_hand(start, tmp_path / "trained")
    path = tmp_path / "trained" / "adapter_model.safetensors"
    low = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(low, path)
    finish_files(tmp_path / "trained", start, tmp_path / "out")
    found, [name, *_] = load_file(tmp_path / "out" / path.name), [name for name in low if "lora_B" in name]
    assert torch.equal(found[name][:, :4], low[name].float() * 1.25)


@pytest.mark.parametrize("method", ["lora", "dora", "orthogonal", SHIFT, "neat"], ids=lambda m: getattr(m, "name", m))
def test_without_an_anchor_the_adapter_is_copied(method: Any, tmp_path: Path) -> None:
    start = made(method, tmp_path / "start")
    assert not (start / "anchor").exists()
    model = by_hand(start, tmp_path / "trained")
    finish_files(tmp_path / "trained", start, tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "trained" / name).read_bytes()
    assert deviation(on_the_untouched_base(tmp_path / "out"), logits(model, cases.batches("llama")[0])) < EXACT


def test_an_adapter_of_another_start_is_refused(tmp_path: Path) -> None:
    start = made(RESIDUAL, tmp_path / "start")
    others = {
        "seed": made(RESIDUAL, tmp_path / "seed", seed=1),
        "alpha": made(RESIDUAL, tmp_path / "alpha", alpha=12),  # the same factors, with another scaling
        "none": made("lora", tmp_path / "none"),
        "targets": made(RESIDUAL, tmp_path / "targets", target_modules=["q_proj"]),
    }
    for name, other in others.items():
        by_hand(other, tmp_path / "trained")
        with pytest.raises(HubinitError, match="was not trained from the start"):
            finish_files(tmp_path / "trained", start, tmp_path / "out")
        assert not (tmp_path / "out").exists(), name
    by_hand(start, tmp_path / "trained")
    with pytest.raises(HubinitError, match="was not trained from the start"):
        finish_files(tmp_path / "trained", others["none"], tmp_path / "out")
    finish_files(tmp_path / "trained", start, tmp_path / "out")
    with pytest.raises(HubinitError, match="other modules or ranks"):  # it is finished already
        finish_files(tmp_path / "out", start, tmp_path / "again")


def test_folders_that_cannot_be_finished_are_refused(tmp_path: Path) -> None:
    start, out = made(RESIDUAL, tmp_path / "start"), tmp_path / "out"
    by_hand(start, tmp_path / "trained")
    with pytest.raises(HubinitError, match="choose another folder"):
        finish_files(tmp_path / "trained", start, tmp_path / "trained")
    shutil.copytree(start, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "anchor")
    with pytest.raises(HubinitError, match="not a whole start point"):
        finish_files(tmp_path / "trained", tmp_path / "bare", out)
    shutil.copytree(made(RESIDUAL, tmp_path / "other", seed=1) / "anchor", tmp_path / "bare" / "anchor")
    with pytest.raises(HubinitError, match="not a whole start point"):
        finish_files(tmp_path / "trained", tmp_path / "bare", out)
    (tmp_path / "trained" / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(HubinitError, match="cannot be read"):
        finish_files(tmp_path / "trained", start, out)
    (tmp_path / "trained" / "adapter_model.safetensors").unlink()
    with pytest.raises(HubinitError, match=r"adapter_model\.safetensors is missing"):
        finish_files(tmp_path / "trained", start, out)


def test_an_anchored_adapter_that_is_not_plain_is_refused(tmp_path: Path) -> None:
    """The anchor beside DoRA has no plain LoRA form: the magnitudes would scale it too."""
    start = made(RESIDUAL, tmp_path / "start")
    by_hand(start, tmp_path / "trained")
    path = tmp_path / "trained" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(HubinitError, match=r"not a plain LoRA \(use_dora\)"):
        finish_files(tmp_path / "trained", start, tmp_path / "out")


def test_kasa_is_refused_with_the_way_that_keeps_its_anchor(tmp_path: Path) -> None:
    start, batch = made("kasa", tmp_path / "start"), cases.batches("llama")[0]
    expected = logits(by_hand(start, tmp_path / "trained"), batch)
    with pytest.raises(HubinitError, match=r"not a plain LoRA \(diag.*load_initialized and hubinit\.export"):
        finish_files(tmp_path / "trained", start, tmp_path / "out")
    shutil.copytree(start / "anchor", tmp_path / "trained" / "anchor")
    hubinit.export(hubinit.load_initialized(cases.build("llama"), tmp_path / "trained"), tmp_path / "out")
    assert deviation(on_the_untouched_base(tmp_path / "out"), expected) < 1e-4  # PEFT truncates the base once more


def test_a_start_from_before_there_were_marks_is_finished_by_its_shapes(tmp_path: Path) -> None:
    start = made(RESIDUAL, tmp_path / "start")
    for path in start.rglob("adapter_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha_pattern": {}}))
    model = by_hand(start, tmp_path / "trained")
    finish_files(tmp_path / "trained", start, tmp_path / "out")
    assert deviation(on_the_untouched_base(tmp_path / "out"), logits(model, cases.batches("llama")[0])) < EXACT


def test_a_checkpoint_of_a_model_from_initialize_can_be_finished_too(tmp_path: Path) -> None:
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4)
    hubinit.save_initialized(model, tmp_path / "start")
    train(model)
    model.save_pretrained(tmp_path / "trained")
    finish_files(tmp_path / "trained", tmp_path / "start", tmp_path / "out")
    assert deviation(on_the_untouched_base(tmp_path / "out"), logits(model, cases.batches("llama")[0])) < EXACT
    # As after `resume_from_checkpoint` in a model of another seed: the checkpoint's anchor came into a model with that mark.
    other = made(RESIDUAL, tmp_path / "other", seed=1) / "anchor" / "adapter_model.safetensors"
    shutil.copy(other, tmp_path / "trained" / "anchor")
    with pytest.raises(HubinitError, match="has an anchor/ that is not the start's"):
        finish_files(tmp_path / "trained", tmp_path / "start", tmp_path / "again")


def test_the_mark_outlives_plain_peft_and_disturbs_nothing(tmp_path: Path) -> None:
    start = made(UNEVEN, tmp_path / "start", rslora=True)
    folder, marks = start, []
    for again in ("one", "two"):
        model = two_lines(folder) if folder == start else PeftModel.from_pretrained(cases.build("llama"), str(folder))
        folder = tmp_path / again
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # PEFT's about patterns that match no module
            PeftModel.from_pretrained(cases.build("llama"), str(start))
        model.save_pretrained(folder)
        marks.append(json.loads((folder / "adapter_config.json").read_text())["alpha_pattern"])
    assert marks[0] == marks[1] == json.loads((start / "adapter_config.json").read_text())["alpha_pattern"]
    assert sum("hubinit-anchor-" in key for key in marks[0]) == 1
    unmarked = {key: alpha for key, alpha in marks[0].items() if "hubinit" not in key}
    config = json.loads((start / "adapter_config.json").read_text()) | {"alpha_pattern": unmarked}
    plain = get_peft_model(cases.build("llama"), LoraConfig(**config))
    for (name, module), (_, other) in zip(plain.named_modules(), model.named_modules(), strict=True):
        if hasattr(module, "scaling"):
            assert module.scaling == other.scaling, name


def test_an_adapter_that_lost_its_anchor_is_refused(tmp_path: Path) -> None:
    start = made(RESIDUAL, tmp_path / "start")
    model = by_hand(start, tmp_path / "trained")
    base = cases.build("llama")
    with pytest.raises(HubinitError, match=r"lost its anchor.*hubinit finish"):
        hubinit.load_initialized(base, tmp_path / "trained")
    assert not hasattr(base, "peft_config"), "the base is as it was"
    with pytest.raises(HubinitError, match=r"anchor merged in.*hubinit\.finish"):
        hubinit.export(model, tmp_path / "exported")
    shutil.copytree(made(RESIDUAL, tmp_path / "other", seed=1) / "anchor", tmp_path / "trained" / "anchor")
    with pytest.raises(HubinitError, match="lost its anchor"):
        hubinit.load_initialized(base, tmp_path / "trained")
    shutil.rmtree(tmp_path / "trained" / "anchor")
    shutil.copytree(start / "anchor", tmp_path / "trained" / "anchor")
    loaded = hubinit.load_initialized(base, tmp_path / "trained")
    assert deviation(logits(loaded, cases.batches("llama")[0]), logits(model, cases.batches("llama")[0])) < EXACT
