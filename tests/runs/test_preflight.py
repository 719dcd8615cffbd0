"""What is refused before any weight is loaded: each case runs on a folder that has none."""

import pytest

from hubinit.adapters.base import adapted_layers
from hubinit.errors import HubError, HubinitError
from hubinit.models.shapes import empty_model
from hubinit.runs import preflight
from hubinit.runs.preflight import check_lengths, check_samples, check_targets
from hubinit.specs import CalibrationSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from tests import cases


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    cases.build("llama").config.save_pretrained(folder)
    return ModelSpec(id=str(folder))


def spec(model, method="filet", **changes):
    options = changes.pop("options", {})
    return RunSpec(
        **{"model": model, "method": MethodSpec(name=method, options=options), "rank": 2, "alpha": 4, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 17}, r"rank 17 is above min\(m, n\) of model.layers.0.self_attn.k_proj \(16×32\)"),
        ({"alpha": 0}, "alpha positive"),
        ({"target_modules": ("q_porj",)}, "matches no linear layer.*q_proj"),
        ({"target_modules": ("q_proj", "foo_proj")}, "matches no linear layer.*'foo_proj'"),
        ({"target_modules": ()}, "matches no linear layer"),
        ({"method": "peft:c3a"}, "PEFT cannot attach peft:c3a to this model: The block size"),
        ({"method": "peft:prefix_tuning"}, "PEFT cannot attach peft:prefix_tuning"),
        ({"method": "peft:adalora"}, "PEFT refuses the options of 'peft:adalora'"),
    ],
)
def test_what_does_not_fit_is_refused(model, changes, message):
    with pytest.raises(HubinitError, match=message):
        check_targets(spec(model, **changes))


@pytest.mark.parametrize(
    "method", ["none", "full", "lora", "pissa", "kasa", "neat", "peft:vera", "peft:lora", "peft:shira"]
)
def test_what_fits_passes_and_leaves_the_empty_model_as_it_was(model, method):
    check_targets(spec(model, method, rank=16 if method == "lora" else 2))
    assert not adapted_layers(empty_model(model))
    assert {parameter.requires_grad for parameter in empty_model(model).parameters()} == {True}


def test_only_a_number_that_was_asked_for_can_be_too_high():
    check_samples(12, 12, "own.jsonl")
    check_samples(None, 12, "own.jsonl")
    with pytest.raises(HubinitError, match=r"own.jsonl has 12 examples, and 13 are asked for"):
        check_samples(13, 12, "own.jsonl")


def test_what_cannot_be_had_for_checking_does_not_stop_the_others(model, monkeypatch):
    gone = spec(ModelSpec(id="org/gone"), rank=99)
    seen = []

    def shapes(asked):
        seen.append(asked.id)
        if asked.id == "org/gone":
            raise HubError("Cannot read the configuration of org/gone.")
        return empty_model(asked), None

    monkeypatch.setattr(preflight, "outline", shapes)
    preflight.check_runs([gone, spec(model), spec(model, learning_rate=0.5)], None)
    assert seen == ["org/gone", model.id], "each shape is looked at once"
    with pytest.raises(HubinitError, match="rank 17 is above"):
        preflight.check_runs([gone, spec(model, rank=17)], None)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_texts_longer_than_the_context_are_refused(model, method):
    long = spec(model, method, recipe=Recipe(max_length=65), calibration=CalibrationSpec(max_length=64))
    with pytest.raises(HubinitError, match=r"recipe.max_length is 65, and .* reads 64 tokens at most; add --set"):
        preflight.check_runs([long], None)
    deep = spec(model, method, recipe=Recipe(max_length=64), calibration=CalibrationSpec())
    with pytest.raises(HubinitError, match=r"calibration.max_length is 512, and .* reads 64 tokens"):
        preflight.check_runs([deep], None)
    preflight.check_runs([spec(model, method, recipe=Recipe(max_length=64))], None)


def test_the_context_is_found_under_the_names_of_other_architectures(tmp_path):
    cases.build("gpt2").config.save_pretrained(tmp_path)
    with pytest.raises(HubinitError, match="reads 64 tokens"):
        check_lengths(spec(ModelSpec(id=str(tmp_path)), recipe=Recipe(max_length=65)))
