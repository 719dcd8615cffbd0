from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import hubinit
from hubinit.adapters.swap import next_adapter
from hubinit.errors import HubinitError
from tests import cases
from tests.adapters.small import assert_untouched, logits, snapshot, train


def trained(folder: Path, method: str = "lora") -> Path:
    """An adapter that was trained a little, exported."""
    model = hubinit.initialize(cases.build("llama"), method, rank=4)
    train(model)
    hubinit.export(model, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "lora": trained(root / "lora"),
        "other lora": trained(root / "other", "orthogonal"),
        "pissa": trained(root / "pissa", "pissa"),  # rank 8, every scaling 1
        "dora": trained(root / "dora", "dora"),
    }


def test_every_adapter_is_as_if_it_were_alone(folders: dict[str, Path]) -> None:
    batch = cases.batches("llama")[0]
    base = cases.build("llama")
    before = snapshot(base)
    alone = {
        name: logits(PeftModel.from_pretrained(cases.build("llama"), str(folder)), batch)
        for name, folder in folders.items()
    }
    model: torch.nn.Module = base
    for name in ("lora", "other lora", "lora", "pissa", "other lora", "dora", "lora"):
        model = next_adapter(model, folders[name])
        assert torch.equal(logits(model, batch), alone[name]), name
    assert_untouched(hubinit.detach(model), before)


def test_adapters_of_one_shape_share_what_peft_built(folders: dict[str, Path]) -> None:
    first = next_adapter(cases.build("llama"), folders["lora"])
    assert next_adapter(first, folders["other lora"]) is first
    assert next_adapter(first, folders["dora"]) is not first


def test_a_damaged_adapter_takes_the_last_one_off_too(folders: dict[str, Path], tmp_path: Path) -> None:
    base = cases.build("llama")
    before = snapshot(base)
    model = next_adapter(base, folders["lora"])
    state = load_file(folders["other lora"] / "adapter_model.safetensors")
    save_file({name: tensor * torch.nan for name, tensor in state.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((folders["lora"] / "adapter_config.json").read_bytes())
    with pytest.raises(HubinitError, match="NaN"):
        next_adapter(model, tmp_path)
    assert_untouched(base, before)
