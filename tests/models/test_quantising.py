"""A base in 4 bits: its own key, refused where it cannot be had, and with bitsandbytes a run that passes the gates."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hubinit import adapters
from hubinit.errors import HubinitError
from hubinit.methods import METHODS
from hubinit.models import base, quantising
from hubinit.models.layers import target_layers, weight_of
from hubinit.models.quantising import check_quantisation, quantised_loading
from hubinit.runs.pairs import fit_quantised
from hubinit.specs import FULL, ModelSpec
from tests import texts

QUANTISED = ModelSpec(id="org/base", dtype="bfloat16", quantize="nf4")


def test_it_is_another_model_and_none_is_the_old_key() -> None:
    plain = ModelSpec(id="org/base", dtype="bfloat16")
    assert plain.canonical_json() == '{"dtype":"bfloat16","id":"org/base"}'
    assert QUANTISED.canonical_json() == '{"dtype":"bfloat16","id":"org/base","quantize":"nf4"}'
    assert (plain.stored_in, QUANTISED.stored_in) == ("bfloat16", "bfloat16 + nf4")


def test_it_is_loaded_as_in_qlora() -> None:
    place = torch.device("cpu")
    assert quantised_loading(ModelSpec(id="org/base"), torch.bfloat16, place) == {}
    loading = quantised_loading(QUANTISED, torch.bfloat16, place)
    config = loading["quantization_config"]
    assert config.quantization_method() == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert loading["device_map"] == {"": place}


def test_it_is_refused_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    check_quantisation(ModelSpec(id="org/base"))
    with pytest.raises(HubinitError, match=r"--quantize nf4 needs bitsandbytes: pip install bitsandbytes"):
        check_quantisation(QUANTISED)
    with pytest.raises(HubinitError, match="needs bitsandbytes"):
        base.load(ModelSpec(id=str(texts.save_model(tmp_path)), dtype="float32", quantize="nf4"))
    with pytest.raises(HubinitError, match="for language models, and org/vit is an image"):
        check_quantisation(ModelSpec(id="org/vit", kind="vision", quantize="nf4"))


def test_what_needs_the_weights_is_left_out_or_refused() -> None:
    told: list[str] = []
    fitting = fit_quantised([*METHODS, "none"], ["all"], told.append)
    assert [name for name in METHODS if name not in fitting] == ["kasa", "neat"]
    assert fitting[-1] == "none"
    assert len(told) == 2
    for name in ("kasa", FULL):
        with pytest.raises(HubinitError, match=f"'{name}' needs the weights themselves"):
            fit_quantised([name], [name], told.append)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "milora"])
def test_a_start_is_the_quantised_base_and_its_factors_are_of_the_dequantised_weights(
    method: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = texts.tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = base.load(ModelSpec(id=str(tmp_path), dtype="float32", quantize="nf4"), "cpu")
    ids = torch.arange(24).reshape(2, 12)  # (B, T)
    with torch.no_grad():
        expected = loaded.model(input_ids=ids).logits  # (B, T, V)
    weights = {name: weight_of(layer).clone() for name, layer in target_layers(loaded.model).items()}
    model = adapters.initialize(loaded.model, method, rank=4, alpha=4)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    if method == "pissa":  # BA is the truncated SVD: Eckart–Young gives its distance from the dequantised weight
        for name, layer in adapters.base.adapted_layers(model).items():
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # (r, n), (m, r)
            lost = torch.linalg.svdvals(weights[name].double())[4:].square().sum().sqrt()
            distance = torch.linalg.norm(weights[name].double() - (B @ A).detach().double())
            assert float(distance) == pytest.approx(float(lost), rel=1e-4)
