"""The lines that the cards print, executed: what they freeze, and heads that are tied to the embedding."""

import pytest
import torch

import hubinit
from hubinit.adapters.freezing import freeze, frozen_by
from hubinit.hub.cards import adapter_card, loading_snippet
from hubinit.hub.manifest import Manifest
from tests.adapters.small import deviation, logits
from tests.cases import batches, build
from tests.hub.builders import run


def printed(name, method, folder, options=None, targets="all-linear"):
    """Saves a base and a start of it, and returns the manifest, the snippet and what running it leaves as `model`."""
    base = build(name)
    base.save_pretrained(folder / "base")
    model = hubinit.initialize(base, method, rank=2, target_modules=targets)
    freeze(model, frozen_by(method, options or {}))
    files = hubinit.save_initialized(model, folder / "start").files
    result = run(method, model=str(folder / "base"), revision=None)
    spec = result.spec.model_copy(
        update={"method": result.spec.method.model_copy(update={"options": options or {}}), "recipe": None}
    )
    summary = model.hubinit_report.summary()
    result = result.model_copy(update={"spec": spec, "key": spec.key, "initialisation": summary, "scores": ()})
    manifest = Manifest(kind="initialised", result=result, files=files)
    snippet = loading_snippet(manifest, str(folder / "start"))
    names = {}
    exec(snippet, names)
    return manifest, snippet, names["model"]


@pytest.mark.parametrize(
    ("method", "options", "trained", "frozen"),
    [
        ("mica", {}, {"lora_A"}, "lora_B"),
        ("pissa", {"train_a": False}, {"lora_B"}, "lora_A"),  # of before the optimisers were an axis
        ("lora", {"train_a": False}, {"lora_B"}, "lora_A"),
        ("pissa", {}, {"lora_A", "lora_B"}, None),
    ],
)
def test_they_freeze_what_the_method_freezes(method, options, trained, frozen, tmp_path):
    manifest, snippet, model = printed("llama", method, tmp_path, options)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == trained
    batch = batches("llama")[0]
    assert deviation(logits(model, batch), logits(build("llama"), batch)) < 1e-5
    card = adapter_card(manifest, str(tmp_path / "start"))
    assert snippet in card
    assert ("never trains" in card) == (frozen is not None)
    assert frozen is None or f"`{frozen}`" in card


def test_a_head_that_is_tied_to_the_embedding_is_untied_before_the_anchor_is_merged(tmp_path):
    targets = ["lm_head", "q_proj"]
    manifest, snippet, model = printed("llama_tied", "pissa", tmp_path, targets=targets)
    assert "head.weight = " in snippet
    batch = batches("llama_tied")[0]
    assert deviation(logits(model, batch), logits(build("llama_tied"), batch)) < 1e-5
    embedding = model.get_base_model().get_input_embeddings().weight
    assert torch.equal(embedding, build("llama_tied").get_input_embeddings().weight)
    assert "shares its weight with the embedding" in adapter_card(manifest, "alice/x")
    assert "head.weight" not in printed("llama_tied", "pissa", tmp_path / "all")[1], "heads are no default targets"
