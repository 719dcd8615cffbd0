import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from hubinit.adapters.configs import classification_heads
from hubinit.errors import InitialisationError
from hubinit.models.layers import (
    EXPERTS,
    GATES,
    bias_of,
    is_conv1d,
    left_out,
    linear_layers,
    shape_of,
    target_layers,
    weight_of,
)
from tests import cases


@pytest.mark.parametrize("name", cases.EVERYTHING)
def test_all_linear_leaves_heads_out_and_weights_compute_the_layer(name: str) -> None:
    model = cases.build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = target_layers(model)
    assert layers
    assert not {"lm_head", "embed_out", "classifier", "score"} & {part for key in layers for part in key.split(".")}
    others = {key.rsplit(".", 1)[-1] for key in set(linear_layers(model)) - set(layers)} - {"shared_expert_gate"}
    assert len(others) == 1  # the head and nothing else
    for module in layers.values():
        m, n = shape_of(module)
        x = torch.randn(3, n)
        expected = weight_of(module)
        assert expected.shape == (m, n)
        bias = bias_of(module)
        torch.testing.assert_close(module(x), x @ expected.T + (0 if bias is None else bias), atol=1e-4, rtol=1e-4)


def test_conv1d_is_transposed_and_found_by_type() -> None:
    layers = target_layers(cases.build("gpt2"))
    assert layers
    assert all(is_conv1d(module) for module in layers.values())
    assert weight_of(layers["transformer.h.0.attn.c_attn"]).shape == (3 * cases.HIDDEN, cases.HIDDEN)


def test_patterns() -> None:
    model = cases.build("llama")
    assert list(target_layers(model, ["q_proj"])) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert len(target_layers(model, r".*layers\.1\..*(q|k)_proj")) == 2
    assert list(target_layers(model, ["lm_head"])) == ["lm_head"]


@pytest.mark.parametrize(
    ("targets", "hint"),
    [("q_proj", r"\['q_proj'\]"), (["q_porj"], "q_proj"), (r".*\.attention", "matches no linear layer")],
)
def test_nothing_matches_names_the_nearest(targets: str | list[str], hint: str) -> None:
    with pytest.raises(InitialisationError, match=hint):
        target_layers(cases.build("llama"), targets)


def test_peft_model_gives_the_base_layers_under_the_base_names() -> None:
    plain = target_layers(cases.build("llama"))
    peft = get_peft_model(cases.build("llama"), LoraConfig(target_modules=["q_proj", "up_proj"], r=2))
    layers = target_layers(peft)
    assert list(layers) == list(plain)
    assert all(torch.equal(weight_of(layers[name]), weight_of(plain[name])) for name in plain)


def test_experts_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"leaves out model\.layers\.0\.mlp\.experts and 1 more: mixture-of-experts"):
        layers = target_layers(cases.build("mixtral"))
    assert {name.rsplit(".", 1)[-1] for name in layers} == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.filterwarnings("ignore:all-linear leaves out")
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2Moe"])
def test_published_shapes_take_any_usual_rank(kind: str) -> None:
    """Mixtral-8x7B and Qwen1.5-MoE-A2.7B, without their weights."""
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")())
    layers = target_layers(model)
    assert {name.rsplit(".", 1)[-1] for name in layers} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert min(min(shape_of(module)) for module in layers.values()) >= 1024


def test_gates_are_left_out_and_narrow_layers_elsewhere_are_not() -> None:
    """A router may be a linear layer of its own kind, with one output per expert; the head of one output is a head."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 8, 16))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.ModuleDict(
                {
                    "mixture": nn.ModuleDict(
                        {
                            "router": nn.ModuleDict({"layer": nn.Linear(16, 4)}),
                            "experts": Experts(),
                            "up": nn.Linear(16, 8),
                        }
                    ),
                    "narrow": nn.Linear(16, 4),
                    "gate": nn.Linear(16, 1),
                }
            )

    model = Model()
    assert left_out(model) == {
        "block.mixture.router.layer": GATES,
        "block.mixture.experts": EXPERTS,
        "block.gate": GATES,
    }
    with pytest.warns(UserWarning, match=r"router\.layer and 1 more: gates"):
        assert list(target_layers(model)) == ["block.mixture.up", "block.narrow"]
    assert list(target_layers(model, ["gate"])) == ["block.gate"]


def test_a_classifier_on_a_mixture_of_experts_has_one_head() -> None:
    config = transformers.Qwen2MoeConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=4, num_labels=1,
    )  # fmt: skip
    model = transformers.Qwen2MoeForSequenceClassification(config)
    assert classification_heads(model) == ["score"]
    assert [name.rsplit(".", 1)[-1] for name in left_out(model)] == ["experts", "shared_expert_gate"]


def test_images_models_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target_layers(cases.build("vit"))


def test_quantised_weight_that_cannot_be_read_names_methods_that_work() -> None:
    class QuantLinear(nn.Module):
        infeatures, outfeatures = 8, 4

    model = nn.ModuleDict({"q": QuantLinear()})
    layers = target_layers(model, ["q"])
    assert shape_of(layers["q"]) == (4, 8)
    with pytest.raises(InitialisationError, match=r"q is quantised \(QuantLinear\).*lora, eva"):
        weight_of(layers["q"], "q")


def test_batches_are_the_same_examples_whatever_the_padding_and_batch_size() -> None:
    left = cases.batches("llama", batch_size=3, padding="left")
    right = cases.batches("llama", batch_size=2)
    rows = [
        [b["input_ids"][i][b["attention_mask"][i].bool()] for b in bs for i in range(len(b["labels"]))]
        for bs in (left, right)
    ]
    assert len(rows[0]) == len(rows[1]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))


def test_a_named_target_that_matches_nothing_is_refused_beside_one_that_does() -> None:
    model = cases.build("llama")
    with pytest.raises(InitialisationError, match=r"'foo_proj'"):
        target_layers(model, ["q_proj", "foo_proj"])
    assert len(target_layers(model, ["q_proj", "model.layers.0.self_attn.v_proj"])) == 3
