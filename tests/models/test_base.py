import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from hubinit import remote
from hubinit.errors import HubError, HubinitError
from hubinit.models import base, dtype, names
from hubinit.specs import ModelSpec
from tests.texts import language_model, save_model, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def repo(api: HfApi, folder: Path) -> str:
    name = "alice/tiny"
    api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder)
    return name


def test_aliases_name_real_repos() -> None:
    assert names.resolve("llama3-8b").id == "meta-llama/Meta-Llama-3-8B"
    assert names.resolve("vit-b32") == ModelSpec(id="google/vit-base-patch32-224-in21k", kind="vision")
    ids = [spec.id for spec in names.registry().values()]
    assert len(set(ids)) == len(ids)
    assert all(name.count("/") == 1 for name in ids)


def test_a_hub_id_means_itself_and_keeps_the_kind_that_is_known() -> None:
    assert names.resolve("someone/something") == ModelSpec(id="someone/something")
    assert names.resolve("google/vit-base-patch32-224-in21k").kind == "vision"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(HubinitError, match=r"Unknown model 'lama3-8b': did you mean .*llama3-8b"):
        names.resolve("lama3-8b")


def test_a_folder_is_a_model_with_a_hash_of_its_content(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    pinned = names.pin(names.resolve(str(copy)))
    assert pinned == names.pin(names.resolve(str(folder))).model_copy(update={"id": str(copy)})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    assert names.pin(names.resolve(str(copy))).revision != pinned.revision


@pytest.mark.parametrize(("model_type", "kind"), [("vit", "vision"), ("llama", "language"), (None, "language")])
def test_a_model_whose_card_names_no_pipeline_is_recognised_by_its_config(api, model_type, kind) -> None:
    name = f"alice/cardless-{model_type}".lower()
    api.create_repo(name)
    content = json.dumps({"model_type": model_type} if model_type else [1]).encode()
    api.upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id=name)
    assert names.pin(names.resolve(name)).kind == kind


def test_pin_names_the_commit_and_load_loads_it(api: HfApi, repo: str) -> None:
    pinned = names.pin(names.resolve(repo))
    assert pinned.revision == api.model_info(repo).sha
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo)
    assert names.pin(names.resolve(repo)).revision != pinned.revision

    loaded = base.load(pinned.model_copy(update={"dtype": "float32"}), "cpu")
    ids = tokenizer()("What is the color?", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded.model(**ids).logits, language_model()(**ids).logits)
    assert loaded.dtype == loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.processor("What is the color?")["input_ids"] == ids["input_ids"][0].tolist()
    assert loaded.model.name_or_path == loaded.model.config._name_or_path == repo


def test_missing_repo_and_missing_revision_are_clear(api: HfApi, repo: str) -> None:
    with pytest.raises(HubError, match="alice/nothing"):
        names.pin(ModelSpec(id="alice/nothing"))
    with pytest.raises(HubError, match="no such revision"):
        names.pin(ModelSpec(id=repo, revision="no-such-branch"))


def test_a_gated_model_says_what_to_do(hub: object, folder: Path) -> None:
    bob = HfApi(token="hf_bob")
    bob.create_repo("bob/gated", exist_ok=True)
    bob.upload_folder(repo_id="bob/gated", folder_path=folder)
    bob.update_repo_settings("bob/gated", gated="manual")
    pinned = names.pin(names.resolve("bob/gated"))  # what a dry run needs is public
    with pytest.raises(HubError, match=r"bob/gated: access to it is gated.*hf auth login"):
        base.load(pinned)


def test_weights_that_can_run_code_are_refused(api: HfApi, folder: Path) -> None:
    api.create_repo("alice/pickled", exist_ok=True)
    api.upload_file(path_or_fileobj=folder / "config.json", path_in_repo="config.json", repo_id="alice/pickled")
    api.upload_file(path_or_fileobj=b"pickle", path_in_repo="pytorch_model.bin", repo_id="alice/pickled")
    with pytest.raises(HubError, match="alice/pickled has no safetensors weights"):
        base.load(ModelSpec(id="alice/pickled"))


def test_a_model_of_another_sort_is_refused(tmp_path: Path) -> None:
    small_vit().save_pretrained(tmp_path)
    with pytest.raises(HubError, match="could not be loaded as a causal language model"):
        base.load(ModelSpec(id=str(tmp_path)), "cpu")


def test_no_space_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base, "snapshot_download", full)
    with pytest.raises(HubError, match=r"No space left for alice/huge in .*HF_HOME"):
        base.load(ModelSpec(id="alice/huge"))


def test_without_network_the_cache_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(remote, "is_offline_mode", lambda: True)
    with pytest.raises(HubError, match="alice/cached is not in the cache"):
        names.pin(ModelSpec(id="alice/cached"))
    (tmp_path / "models--alice--cached" / "snapshots" / "abc").mkdir(parents=True)
    assert names.pin(ModelSpec(id="alice/cached")).revision == "abc"
    (tmp_path / "models--alice--cached" / "refs").mkdir()
    (tmp_path / "models--alice--cached" / "refs" / "main").write_text("def")
    assert names.pin(ModelSpec(id="alice/cached")).revision == "def"


def test_dtype_is_what_is_asked_or_what_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert dtype.choose_dtype(ModelSpec(id="a/b", dtype="bfloat16"), cpu) == "bfloat16"
    for fast, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(dtype, "bfloat16_is_fast", lambda fast=fast: fast)
        assert dtype.choose_dtype(ModelSpec(id="a/b"), cpu) == expected
        assert dtype.choose_dtype(ModelSpec(id="a/b", kind="vision"), cpu) == "float32"


def small_vit() -> ViTModel:
    torch.manual_seed(0)
    return ViTModel(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=16,
            patch_size=4,
        )
    )


def test_an_image_model_gets_a_seeded_head_for_the_labels(tmp_path: Path) -> None:
    backbone = small_vit()
    backbone.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    spec = names.resolve(str(tmp_path))
    assert spec.kind == "vision"
    state = torch.get_rng_state()
    one, same, other = (base.load(spec, "cpu", labels=["cat", "dog", "fish"], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.model.config.id2label == {0: "cat", 1: "dog", 2: "fish"}
    assert one.model.classifier.weight.shape == (3, 32)
    assert torch.equal(one.model.classifier.weight, same.model.classifier.weight)
    assert not torch.equal(one.model.classifier.weight, other.model.classifier.weight)
    kept = dict(one.model.named_parameters())
    name, value = next((n, p) for n, p in backbone.named_parameters() if n.endswith("o_proj.weight") or "dense" in n)
    assert torch.equal(kept[f"vit.{name}"], value)


@pytest.mark.parametrize(
    ("capabilities", "fast"), [({"avx512_bf16": True}, True), ({"avx2": True, "amx_bf16": False}, False)]
)
def test_the_cpu_is_asked_for_bfloat16_and_not_timed(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "bf16 by name only", **capabilities})
    assert dtype.bfloat16_is_fast() is fast


def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, bool] = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.update(how) or False)
    assert dtype.choose_dtype(ModelSpec(id="a/b"), torch.device("cuda")) == "float32"
    assert asked == {"including_emulation": False}
