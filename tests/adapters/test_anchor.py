"""PEFT's traps with a second adapter: whatever happens to the trained adapter, its anchor follows."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import hubinit
from hubinit.adapters.anchor import ADAPTER, ANCHOR
from tests import cases
from tests.adapters.small import RESIDUAL, deviation, logits, train


def start(name: str = "llama", dtype: torch.dtype = torch.float32, **kwargs: Any) -> tuple[Any, Any, torch.Tensor]:
    """A trained residual model, its batch and its logits."""
    model = hubinit.initialize(cases.build(name, dtype=dtype), RESIDUAL, rank=4, **kwargs)
    train(model)
    batch = cases.batches(name, dtype=dtype)[0]
    return model, batch, logits(model, batch)


def trainable(model: Any) -> set[str]:
    return {name.split(".")[-2] for name, parameter in model.named_parameters() if parameter.requires_grad}


def switch(model: Any) -> Any:
    model.set_adapter(ADAPTER)
    return model


def switch_below(model: Any) -> Any:
    model.base_model.set_adapter(ADAPTER)
    return model


def disable_and_enable(model: Any) -> Any:
    with model.disable_adapter():
        assert not trainable(model)
    return model


def layers_off_and_on(model: Any) -> Any:
    model.base_model.disable_adapter_layers()
    model.base_model.enable_adapter_layers()
    return model


def other_adapter_and_back(model: Any) -> Any:
    from peft import LoraConfig

    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    model.set_adapter("other")
    model.set_adapter(ADAPTER)
    model.delete_adapter("other")
    return model


def both_active(model: Any) -> Any:
    model.base_model.set_adapter(
        [ADAPTER, ANCHOR]
    )  # what one would do with plain PEFT: the anchor must not count twice
    return model


def modes(model: Any) -> Any:
    return model.train().eval()


def merge_and_unmerge(model: Any) -> Any:
    model.merge_adapter()
    model.unmerge_adapter()
    return model


@pytest.mark.parametrize(
    "trap",
    [
        switch,
        switch_below,
        disable_and_enable,
        layers_off_and_on,
        other_adapter_and_back,
        both_active,
        modes,
        merge_and_unmerge,
        copy.deepcopy,
    ],
)
def test_the_anchor_stays_in_use_and_frozen(trap: Any) -> None:
    model, batch, expected = start()
    model = trap(model)
    assert deviation(logits(model, batch), expected) < 2e-6
    if trap is not both_active:
        assert trainable(model) == {ADAPTER}


def test_disabling_the_adapter_gives_the_base() -> None:
    model, batch, _ = start("gpt2")
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(cases.build("gpt2"), batch))


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merging_merges_both(name: str, safe: bool) -> None:
    model, batch, expected = start(name)
    assert deviation(logits(model.merge_and_unload(safe_merge=safe), batch), expected) < 1e-5


def test_deep_copies_are_independent() -> None:
    model, batch, expected = start()
    other = copy.deepcopy(model)
    train(other, seed=1)
    assert torch.equal(logits(model, batch), expected)
    assert not torch.equal(logits(other, batch), expected)
    assert other.hubinit_report == model.hubinit_report


def test_gradients_reach_the_adapter_only_and_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, batch, _ = start()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model(**batch).loss.backward()
        assert {name.split(".")[-2] for name, p in model.named_parameters() if p.grad is not None} == {ADAPTER}
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)
    assert float(gradients[0].norm()) > 0


def run_trainer(model: Any, folder: Path, steps: int, resume: Path | None = None) -> None:
    rows = [
        {name: values[0] for name, values in batch.items()} for batch in cases.batches("llama", batch_size=1, length=12)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train(
        resume_from_checkpoint=str(resume) if resume else None
    )


def test_the_trainer_resumes_with_the_anchor(tmp_path: Path) -> None:
    """The Trainer calls `set_adapter(active_adapters[0])` when it resumes; two active adapters would lose the second."""
    batch = cases.batches("llama")[0]
    whole = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4)
    run_trainer(whole, tmp_path, 4)
    # As after a crash, but with another seed: the anchor in use must be the checkpoint's, not the new one's.
    resumed = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4, seed=1)
    run_trainer(resumed, tmp_path / "again", 4, resume=tmp_path / "checkpoint-2")
    assert deviation(logits(resumed, batch), logits(whole, batch)) < 1e-5
    assert trainable(resumed) == {ADAPTER}
    loaded = hubinit.load_initialized(cases.build("llama"), tmp_path / "checkpoint-4")
    assert deviation(logits(loaded, batch), logits(whole, batch)) < 1e-5


def test_save_pretrained_keeps_the_anchor_for_load_initialized(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model, batch, expected = start(dtype=dtype)
        folder = tmp_path / str(dtype)
        model.save_pretrained(folder)
        loaded = hubinit.load_initialized(cases.build("llama", dtype=dtype), folder, merge_residual=False)
        assert torch.equal(logits(loaded, batch), expected)
        assert trainable(loaded) == {ADAPTER}
