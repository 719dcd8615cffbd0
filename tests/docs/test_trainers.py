"""The guide `docs/trainers.md` does what it says: its Python runs as it stands, and what is finished equals what was trained."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel

import hubinit
from tests import texts
from tests.adapters.small import RESIDUAL, deviation, logits

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
WITH_TRL = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


def python_of(section: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with the base and the start that the page names, and the user's own data."""
    monkeypatch.chdir(tmp_path)
    texts.language_model().save_pretrained("org/base")
    hubinit.save_initialized(hubinit.initialize(texts.language_model(), RESIDUAL, rank=4), "me/my-init")
    ids = torch.arange(2, 14)
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return {
        "batches": [{name: values[None] for name, values in row.items()}] * 3,
        "rows": [row] * 8,
        "dataset": Dataset.from_list([{"text": sentence} for sentence in texts.SENTENCES * 3]),
        "tokenizer": texts.tokenizer(),
    }


@pytest.mark.parametrize("section", ["Plain PEFT", "transformers' Trainer", pytest.param("TRL", marks=WITH_TRL)])
def test_the_python_of_each_guide_runs_and_ends_in_an_exact_adapter(section: str, names: dict[str, Any]) -> None:
    batch = names["batches"][0]
    exec(python_of("The two lines"), names)
    before = logits(names["model"], batch)
    exec(python_of(section), names)
    trained = logits(names["model"], batch)
    assert deviation(trained, before) > 1e-5, "it was trained"
    exec(python_of("Finish"), names)
    base = texts.language_model()
    assert deviation(logits(PeftModel.from_pretrained(base, "my-adapter"), batch), trained) < 1e-5
    bare = PeftModel.from_pretrained(texts.language_model(), "trained")
    assert deviation(logits(bare, batch), trained) > 0.05


def test_llama_factory_merges_the_anchor_and_trains_the_start() -> None:
    """It merges all but the last; `tests/adapters/test_finish.py` trains that way."""
    [block] = re.findall(r"```yaml\n(.*?)```", SECTIONS["LLaMA-Factory"], re.DOTALL)
    settings = yaml.safe_load(block)
    assert settings["adapter_name_or_path"].split(",") == ["start/anchor", "start"]
    assert settings["create_new_adapter"] is False, "else it merges the last one, too"


def test_every_section_with_python_is_run() -> None:
    run = {"The two lines", "Finish", "Plain PEFT", "transformers' Trainer", "TRL"}
    assert {section for section in SECTIONS if python_of(section)} == run
