"""A head that shares its weight with the embedding, named as a target: an anchor must never reach the embedding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import hubinit
from hubinit.adapters.base import tied_layers
from hubinit.adapters.gates import check_printed, check_reload, check_start
from hubinit.adapters.lines import run_lines, start_lines
from hubinit.errors import GateError
from tests import cases
from tests.adapters.small import assert_untouched, deviation, logits, snapshot, train

TARGETS = ["lm_head", "q_proj"]


def start(folder: Path, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    model = hubinit.initialize(
        cases.build("llama_tied", dtype=dtype), "pissa", rank=4, target_modules=TARGETS, **kwargs
    )
    hubinit.save_initialized(model, folder)
    return model


def plain(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return logits(cases.build("llama_tied", dtype=dtype), cases.batches("llama_tied")[0])


def test_only_the_head_is_tied(tmp_path: Path) -> None:
    model = start(tmp_path)
    assert tied_layers(model) == {"lm_head"}
    assert model.hubinit_report.tied == ("lm_head",)
    assert model.hubinit_report.summary()["tied_modules"] == 1
    assert "tied_modules" not in hubinit.initialize(cases.build("llama"), "lora", rank=4).hubinit_report.summary()


@pytest.mark.parametrize("merged", [None, True, False])
def test_load_initialized_starts_at_the_base_and_trains_the_same(merged: bool | None, tmp_path: Path) -> None:
    batch = cases.batches("llama_tied")[0]
    model, base = start(tmp_path), cases.build("llama_tied")
    before = snapshot(base)
    loaded = hubinit.load_initialized(base, tmp_path, merge_residual=merged)
    assert deviation(logits(loaded, batch), plain()) < 1e-5
    check_start(loaded, batch, "keep")
    train(model)
    train(loaded)
    assert deviation(logits(loaded, batch), logits(model, batch)) < 1e-5
    hubinit.export(loaded, tmp_path / "trained")
    check_reload(loaded, tmp_path / "trained", batch)
    hubinit.detach(loaded)
    assert_untouched(base, before)


def test_folding_at_the_start_leaves_the_embedding_alone(tmp_path: Path) -> None:
    model = start(tmp_path, merge_residual=True)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, cases.build("llama_tied").get_input_embeddings().weight)
    assert deviation(logits(model, cases.batches("llama_tied")[0]), plain()) < 1e-5


def test_the_printed_lines_untie_the_head_first(tmp_path: Path) -> None:
    batch = cases.batches("llama_tied")[0]
    model = start(tmp_path)
    lines = start_lines(str(tmp_path), anchored=True, tied=True, frozen=())
    loaded = run_lines(lines, cases.build("llama_tied"))
    assert deviation(logits(loaded, batch), plain()) < 1e-5
    naive = run_lines(start_lines(str(tmp_path), anchored=True, tied=False, frozen=()), cases.build("llama_tied"))
    assert deviation(logits(naive, batch), plain()) > 0.1
    train(model)
    train(loaded)
    assert deviation(logits(loaded, batch), logits(model, batch)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gate_runs_the_printed_lines(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = cases.batches("llama_tied")[0]
    model = start(tmp_path, dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = check_printed(model, tmp_path, batch, "keep")
    assert measured is not None
    assert measured < 1e-5
    monkeypatch.setattr("hubinit.adapters.lines.UNTIE", ())  # the lines of version 0.1
    with pytest.raises(GateError, match="printed lines do not rebuild"):
        check_printed(model, tmp_path, batch, "keep")
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == set()
    assert tied_layers(model) == {"lm_head"}
    assert model.config.tie_word_embeddings
    assert torch.equal(logits(model, batch), plain(dtype))


def test_plain_peft_alone_would_not_do(tmp_path: Path) -> None:
    """What the gate is there for: the two lines of a start whose head is not tied."""
    start(tmp_path)
    base = PeftModel.from_pretrained(cases.build("llama_tied"), str(tmp_path), subfolder="anchor").merge_and_unload()
    model = PeftModel.from_pretrained(base, str(tmp_path))
    assert deviation(logits(model, cases.batches("llama_tied")[0]), plain()) > 0.1
