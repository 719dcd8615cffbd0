"""Several adapters of one base: it is loaded once, and each adapter answers as if it were alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hubinit
from hubinit.models.base import load
from hubinit.models.names import resolve
from hubinit.scoring import target
from hubinit.scoring.target import find_target, load_target, share_base
from tests.texts import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


def save_adapter(base: Path, folder: Path, method: str, rank: int) -> Path:
    model = hubinit.initialize(load(resolve(str(base)), "cpu").model, method, rank=rank)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.full_like(parameter, 0.02 * (1 + number % 3)))
    hubinit.export(model, folder, base=str(base))
    return folder


def test_each_adapter_answers_as_if_alone_on_a_base_that_is_loaded_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [
        save_adapter(base, tmp_path / f"{method}{rank}", method, rank)
        for method, rank in (("lora", 2), ("orthogonal", 2), ("pissa", 2), ("lora", 4))
    ]
    tokens = torch.tensor([[1, 2, 3, 4, 5]])

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=tokens).logits

    alone = [logits(load_target(str(folder), ["arc-easy"], "float32")[0]) for folder in folders]
    assert len({float(one.sum()) for one in alone}) == len(alone)
    loads: list[str] = []

    def counted(spec: Any, **options: Any) -> Any:
        loads.append(spec.id)
        return load(spec, **options)

    monkeypatch.setattr(target, "load", counted)
    together = share_base()
    for folder, expected in zip(folders, alone, strict=True):
        model, _ = together(find_target(str(folder), ["arc-easy"], "float32"), ["arc-easy"])
        assert torch.equal(logits(model), expected)
    assert loads == [str(base)]
    model, _ = together(find_target(str(base), ["arc-easy"], "float32"), ["arc-easy"])
    assert torch.equal(logits(model), logits(load_target(str(base), ["arc-easy"], "float32")[0]))
