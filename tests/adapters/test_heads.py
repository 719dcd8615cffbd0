"""The head of a classifier: the same for every method at the start, trained, saved and reloaded; alone in a linear probe."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import hubinit
from hubinit import adapters
from hubinit.adapters.gates import check_reload, check_start, check_trained
from hubinit.errors import InitialisationError
from hubinit.methods import METHODS
from hubinit.models.base import draw_head
from hubinit.models.layers import target_layers
from tests import cases
from tests.adapters.small import assert_untouched, logits, snapshot, train
from tests.adapters.test_every_method import prepare


def other_head(name: str) -> Any:
    """The same base with a head that no adapter was trained with."""
    model = cases.build(name)
    draw_head(model, 99)
    return model


@pytest.mark.parametrize("name", cases.VISION)
def test_all_linear_is_attention_and_mlp(name: str) -> None:
    found = [re.sub(r"\.\d+\.", ".*.", layer) for layer in target_layers(cases.build(name))]
    kinds = {layer: found.count(layer) for layer in found}
    assert set(kinds.values()) == {cases.LAYERS}, "the same layers of every block, and nothing outside the blocks"
    attention = [layer for layer in kinds if "attention" in layer or "attn" in layer]
    assert len(attention) == 4, "query, key, value and output"
    assert len(set(kinds) - set(attention)) == 2, "the two layers of the MLP"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", cases.VISION)
def test_every_method_trains_saves_and_reloads_the_same_head(name: str, method: str, tmp_path: Path) -> None:
    base, batch, calibration = prepare(name)
    before = snapshot(base)
    model = hubinit.initialize(base, method, rank=4, calibration=calibration)
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad and "classifier" in key}
    assert {key.rpartition(".")[2] for key in trained} == {"weight", "bias"}
    for key, value in trained.items():
        assert torch.equal(value, before[f"classifier.{key.rpartition('.')[2]}"])
    train(model)
    adapters.export(model, tmp_path)
    expected = logits(model, batch)
    hubinit.detach(model)
    assert_untouched(base, before)
    reloaded = PeftModel.from_pretrained(other_head(name), str(tmp_path))
    torch.testing.assert_close(logits(reloaded, batch), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(reloaded.base_model.model.classifier.weight, trained[next(k for k in trained if "weight" in k)])


@pytest.mark.parametrize("name", cases.VISION)
def test_a_linear_probe_trains_the_head_alone(name: str, tmp_path: Path) -> None:
    base, batch = cases.build(name), cases.batches(name)[0]
    before = snapshot(base)
    model = adapters.attach_head(base)
    assert all("classifier" in key for key, value in model.named_parameters() if value.requires_grad)
    assert model.hubinit_report.trainable_parameters == sum(
        p.numel() for p in base.classifier.original_module.parameters()
    )
    assert check_start(model, batch, "keep") == 0
    train(model)
    assert check_trained(model, batch) > 0
    saved = adapters.export(model, tmp_path)
    assert (saved.rank, adapters.head_size(tmp_path / "adapter_model.safetensors")) == (0, cases.LABELS)
    assert check_reload(model, tmp_path, batch, base=other_head(name)) == 0
    expected = logits(model, batch)
    hubinit.detach(model)
    assert_untouched(base, before)
    for reload in (PeftModel.from_pretrained, hubinit.load_initialized):
        assert torch.equal(logits(reload(other_head(name), str(tmp_path)), batch), expected)


def test_a_model_without_a_head_has_no_probe() -> None:
    with pytest.raises(InitialisationError, match="LlamaForCausalLM has no classification head"):
        adapters.attach_head(cases.build("llama"))
