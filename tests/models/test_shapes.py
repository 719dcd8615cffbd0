"""What `config.json` says about a model is what the model is."""

import pytest

from hubinit.errors import HubError
from hubinit.models import names
from hubinit.models.layers import shape_of, target_layers
from hubinit.models.shapes import empty_model, outline
from hubinit.specs import ModelSpec
from tests import cases


@pytest.mark.parametrize("architecture", [name for name in (*cases.CAUSAL, *cases.CLASSIFIERS) if name != "bert"])
def test_an_empty_model_has_the_targets_and_shapes_of_the_whole_one(tmp_path, architecture):
    whole = cases.build(architecture)
    whole.save_pretrained(tmp_path)
    kind = "language" if architecture in cases.CAUSAL else "vision"
    empty = empty_model(ModelSpec(id=str(tmp_path), kind=kind))
    assert all(parameter.is_meta for parameter in empty.parameters())
    found = {name: shape_of(layer) for name, layer in target_layers(empty).items()}
    assert found == {name: shape_of(layer) for name, layer in target_layers(whole).items()}


def test_a_configuration_that_is_not_a_model_is_named(hub, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bird"}')
    with pytest.raises(HubError, match=r"cannot be loaded as a causal language model"):
        empty_model(names.resolve(str(tmp_path)))
    with pytest.raises(HubError, match="tiny/nowhere"):
        empty_model(ModelSpec(id="tiny/nowhere", revision="a" * 40))


# Parameters that the Hub states for the safetensors files of these repositories.
COUNTS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama3-8b": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "gemma-7b": 8_537_680_896,
    "gemma2-9b": 9_241_705_984,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


@pytest.mark.parametrize("alias", COUNTS)
def test_the_known_shapes_of_registered_models_have_their_parameters(alias):
    model, reason = outline(names.resolve(alias))
    assert reason == "no Hub was asked"
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[alias]


def test_every_registered_model_has_known_shapes():
    assert all(names.known_config(spec.id) for spec in names.registry().values())
