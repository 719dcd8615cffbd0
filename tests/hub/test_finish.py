"""`hubinit finish` with what it says about its result, and `push` of an adapter that lost its anchor."""

import json
import shutil
from pathlib import Path

import pytest
from peft import PeftModel

import hubinit
from hubinit.cli import app
from hubinit.errors import HubError, HubinitError
from hubinit.hub.manifest import read_manifest
from hubinit.hub.publication import describe
from hubinit.hub.pull import load, pull
from hubinit.hub.send import push
from tests import cases
from tests.adapters.small import RESIDUAL, deviation, train
from tests.hub.builders import logits, publish_tiny_llama, run

BASE = "alice/tiny-llama"


@pytest.fixture(scope="module")
def folders(hub, tmp_path_factory):
    """A start on the Hub (a run's, with its recipe and scores), its folder, and what plain PEFT saved after training."""
    from huggingface_hub import HfApi

    api, root = HfApi(token="hf_alice"), tmp_path_factory.mktemp("finish")
    _, revision = publish_tiny_llama(api, root / "base")
    model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=4)
    hubinit.save_initialized(model, root / "start", base=BASE, revision=revision)
    describe(run(seed=81, model=BASE, revision=revision), root / "start", "initialised")
    push(api, root / "start", "alice/finish-start")
    base = PeftModel.from_pretrained(cases.build("llama"), str(root / "start"), subfolder="anchor").merge_and_unload()
    trained = PeftModel.from_pretrained(base, str(root / "start"), is_trainable=True)
    train(trained)
    trained.save_pretrained(root / "trained")
    return root / "start", root / "trained", logits(trained)


def call(*arguments: str) -> int:
    try:
        app([str(argument) for argument in arguments], standalone_mode=False)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.mark.parametrize("from_the_hub", [False, True])
def test_the_result_says_where_it_comes_from_and_claims_no_training(folders, api, tmp_path, from_the_hub):
    start, trained, _ = folders
    saved = hubinit.finish(trained, "alice/finish-start" if from_the_hub else start, tmp_path / "out", api=api)
    manifest = read_manifest((tmp_path / "out" / "hubinit.json").read_bytes(), "out")
    result = manifest.result
    assert (manifest.kind, manifest.files, saved.rank) == ("trained", saved.files, 8)
    assert "trained elsewhere" in result.reason
    assert (result.scores, result.spec.recipe, result.spec.learning_rate) == ((), None, 0.0)
    assert (result.key, result.adapter_sha256) == (result.spec.key, saved.sha256)
    assert set(result.costs) == {"calibrate", "initialise"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "fine-tuned elsewhere" in card
    assert "max-lora-rank" in card
    assert "fine-tuned by hubinit" not in card
    assert "| training |" not in card
    assert "| data of the initialisation | `arc-easy`" in card
    assert "\n- arc-easy\n" not in card.partition("\n---\n")[0], "nobody said that it was trained on these data"


def test_the_command_finishes_and_publishes_what_loads_in_one_line(folders, api, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    _, trained, expected = folders
    out = tmp_path / "out"
    arguments = ("finish", trained, "--init", "alice/finish-start", "--out", out, "--push", "alice/finished", "--json")
    for changed in (True, False):  # the same command again changes nothing
        assert call(*arguments) == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["rank"], printed["published"]["repo_id"]) == (8, "alice/finished")
        assert printed["published"]["changed"] == changed
    assert pull(api, "alice/finished").manifest.kind == "trained"
    assert deviation(logits(load(BASE, "alice/finished", dtype="float32", api=api)), expected) < 1e-5
    assert call("finish", trained, "--init", "alice/finish-start", "--out", tmp_path / "other") == 0
    assert "max-lora-rank 8" in capsys.readouterr().out.replace("\n", " ")


def test_what_finish_refuses(folders, api, tmp_path):
    start, trained, _ = folders
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(HubinitError, match=r"holds other files \(notes\.txt\)"):
        hubinit.finish(trained, start, tmp_path / "full", api=api)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    shutil.copytree(start, tmp_path / "damaged")
    (tmp_path / "damaged" / "anchor" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(HubError, match=r"anchor/adapter_model\.safetensors .* is not the file"):
        hubinit.finish(trained, tmp_path / "damaged", tmp_path / "out", api=api)
    assert not (tmp_path / "out").exists()


def test_a_start_without_provenance_gives_an_adapter_without(folders, api, tmp_path):
    start, trained, _ = folders
    shutil.copytree(start, tmp_path / "start")
    hubinit.finish(trained, start, tmp_path / "out", api=api)
    (tmp_path / "start" / "hubinit.json").unlink()
    hubinit.finish(trained, tmp_path / "start", tmp_path / "out", api=api)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_push_refuses_an_adapter_that_lost_its_anchor(folders, api, tmp_path):
    start, trained, _ = folders
    shutil.copytree(trained, tmp_path / "trained")
    with pytest.raises(HubinitError, match=r"lost its anchor.*hubinit finish"):
        push(api, tmp_path / "trained", "alice/never")
    assert not api.repo_exists("alice/never")
    shutil.copytree(start / "anchor", tmp_path / "trained" / "anchor")
    push(api, tmp_path / "trained", "alice/with-its-anchor")


def test_the_start_s_card_says_what_becomes_of_the_training(folders, api):
    card = Path(api.hf_hub_download("alice/finish-start", "README.md")).read_text()
    assert "hubinit finish MY-ADAPTER --init alice/finish-start --out FINISHED" in card
    assert "silently wrong" in card
    assert "# What you save after training needs the anchor, too: `hubinit finish`" in card
    assert "neither the data nor hubinit is needed any more" not in card
