"""What `config.json` says about a model is what the model is."""

import pytest

from hubinit.errors import HubError
from hubinit.models import names
from hubinit.models.layers import shape_of, target_layers
from hubinit.models.shapes import empty_model
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
