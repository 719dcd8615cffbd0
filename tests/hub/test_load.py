"""`hubinit.hub.pull.load`: the start point on a base, in float32 and bfloat16, and what it refuses."""

import pytest

from hubinit.errors import HubError
from hubinit.hub.pull import load, pull
from hubinit.hub.send import push
from tests.cases import build
from tests.hub.builders import logits, publish_run, publish_tiny_llama, run, visible_adapter


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """The base with a start point (anchored, factors of visible size) and a trained adapter on the Hub."""
    from huggingface_hub import HfApi

    api, folder = HfApi(token="hf_alice"), tmp_path_factory.mktemp("load")
    base, revision = publish_tiny_llama(api, folder / "base")
    trained = visible_adapter(folder / "run" / "adapter")
    visible_adapter(folder / "run" / "init")
    visible_adapter(folder / "run" / "init" / "anchor", sign=-1.0)
    start, outcome = publish_run(api, run(seed=71, model=base, revision=revision), folder / "run", "alice")
    return start.repo_id, outcome.repo_id, trained


def trainable(model) -> set[str]:
    return {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}


def test_a_start_point_in_float32_is_the_base_and_ready_to_train(published):
    import torch

    model = load("alice/tiny-llama", published[0])
    torch.testing.assert_close(logits(model), logits(build("llama")), atol=1e-4, rtol=1e-4)
    assert trainable(model) == {"lora_A", "lora_B"}
    assert next(model.parameters()).dtype == torch.float32


def test_a_start_point_in_bfloat16_keeps_its_anchor_beside_it(published):
    import torch

    model = load("alice/tiny-llama", published[0], dtype="bfloat16")
    plain = logits(build("llama").to(torch.bfloat16))
    assert (logits(model) - plain).norm() / plain.norm() < 2e-2
    assert (published[2] - plain).norm() / plain.norm() > 0.1
    assert all("anchor" not in name for name, p in model.named_parameters() if p.requires_grad)


def test_a_trained_adapter_gives_the_trained_logits_and_is_frozen_when_asked(published):
    import torch

    model = load("alice/tiny-llama", published[1], trainable=False)
    torch.testing.assert_close(logits(model), published[2], atol=1e-4, rtol=1e-4)
    assert not trainable(model)


def test_an_exported_adapter_is_pushed_pulled_and_loaded(published, hub, tmp_path):
    """Trained by one's own loop, outside of any run: `hubinit.json` says what is known."""
    import torch
    from huggingface_hub import HfApi
    from transformers import AutoModelForCausalLM

    import hubinit

    base = AutoModelForCausalLM.from_pretrained("alice/tiny-llama", dtype=torch.float32)
    model = hubinit.initialize(base, "pissa", rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.add_(0.1)
    trained = logits(model)
    api = HfApi(token="hf_alice")
    revision = api.model_info("alice/tiny-llama").sha
    hubinit.export(model, tmp_path / "mine", revision=revision)
    push(api, tmp_path / "mine", "alice/exported")
    pulled = pull(api, "alice/exported", out=tmp_path / "pulled")
    spec = pulled.manifest.result.spec
    assert (pulled.manifest.kind, spec.method.name, spec.rank, spec.alpha) == ("trained", "pissa", 2, 4)
    assert (spec.model.id, spec.model.revision) == ("alice/tiny-llama", revision)
    torch.testing.assert_close(logits(load("alice/tiny-llama", "alice/exported")), trained, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "pulled" / "README.md").read_text()
    assert "fine-tuned elsewhere from a `pissa` initialisation and made one plain LoRA by `hubinit.export`" in card
    assert "it has not been scored" in card
    hubinit.export(model, tmp_path / "mine")
    push(api, tmp_path / "mine", "alice/exported-twice")


def test_a_model_in_memory_is_taken_as_it_is(published):
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("alice/tiny-llama", dtype=torch.float32)
    torch.testing.assert_close(logits(load(base, published[1])), published[2], atol=1e-4, rtol=1e-4)


def test_a_base_in_pickles_is_loaded_only_when_asked(hub, tmp_path):
    import torch
    from huggingface_hub import HfApi

    api = HfApi(token="hf_alice")
    model = build("llama")
    model.config.save_pretrained(tmp_path / "base")
    torch.save(model.state_dict(), tmp_path / "base" / "pytorch_model.bin")
    api.create_repo("alice/pickled-base")
    revision = api.upload_folder(folder_path=tmp_path / "base", repo_id="alice/pickled-base").oid
    visible_adapter(tmp_path / "run" / "adapter")
    [repo] = publish_run(api, run(seed=72, model="alice/pickled-base", revision=revision), tmp_path / "run", "alice")
    with pytest.raises(HubError, match="safetensors"):
        load("alice/pickled-base", repo.repo_id)
    load("alice/pickled-base", repo.repo_id, use_safetensors=False)


def test_another_base_or_revision_is_refused_before_anything_is_loaded(published):
    with pytest.raises(HubError, match="not for alice/other"):
        load("alice/other", published[0])
    with pytest.raises(HubError, match="not for ffff"):
        load("alice/tiny-llama", published[0], base_revision="f" * 40)
    other = build("llama")
    other.config._name_or_path = "alice/other"
    with pytest.raises(HubError, match="not for alice/other"):
        load(other, published[0])


def test_what_the_method_freezes_stays_frozen_in_start_and_outcome(published, tmp_path):
    """The folders have nothing about it but their `hubinit.json`, as those of version 0.1."""
    from huggingface_hub import HfApi

    api = HfApi(token="hf_alice")
    revision = api.model_info("alice/tiny-llama").sha
    visible_adapter(tmp_path / "run" / "adapter")
    visible_adapter(tmp_path / "run" / "init")
    result = run("mica", seed=73, model="alice/tiny-llama", revision=revision)
    for repo in publish_run(api, result, tmp_path / "run", "alice"):
        assert trainable(load("alice/tiny-llama", repo.repo_id)) == {"lora_A"}
        assert not trainable(load("alice/tiny-llama", repo.repo_id, trainable=False))
