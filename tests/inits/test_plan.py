"""One start point has one identity, whoever asks for it; and what cannot be made is said before the work."""

import json
from dataclasses import replace

import pytest

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.hub.publication import of_adapter, repo_name
from hubinit.inits.matrix import MOST, MatrixRequest, plan_matrix
from hubinit.inits.plan import StartRequest, plan_start
from hubinit.models import names
from hubinit.models.kinds import start_of
from hubinit.records import ResultStore
from hubinit.runs.plan import Request, plan
from tests import texts
from tests.hub.builders import adapter_files, run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(texts.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def pinned(monkeypatch):
    monkeypatch.setattr(tasks, "pin", lambda name: f"{name:0<40}")


def planned_runs(model, tmp_path, **changes):
    request = Request(models=(model,), methods=("pissa", "filet"), tasks=("arc-easy",), rank=2, **changes)
    return {run.spec.method.name: run.spec for run in plan(request, ResultStore(tmp_path))}


@pytest.mark.parametrize("method", ["pissa", "filet"])
def test_bench_init_and_publish_inits_mean_the_same_start_point(model, tmp_path, method):
    whole = planned_runs(model, tmp_path)[method]
    (other_rate,) = [planned_runs(model, tmp_path, learning_rates=(1e-3,), overrides=("recipe.steps=7",))[method]]
    start = plan_start(StartRequest(model, method, task="arc-easy", rank=2))
    (of_matrix,) = plan_matrix(MatrixRequest((model,), (method,), ("arc-easy",), (2,)))
    assert whole.key != other_rate.key
    assert start_of(whole).key == start_of(other_rate).key == start.spec.key == of_matrix.spec.key
    assert (start.spec.data is None) == (method == "pissa")
    assert repo_name(whole, "initialised", "me") == repo_name(start.spec, "initialised", "me")
    assert repo_name(whole, "initialised", "me", "arc-easy") == repo_name(start.spec, "initialised", "me")


def test_another_seed_rank_or_type_is_another_start_point(model):
    requests = [{}, {"seed": 1}, {"rank": 4}, {"alpha": 3.0}, {"dtype": "float32"}, {"dtype": "bfloat16"}]
    keys = [plan_start(StartRequest(model, "lora", **{"rank": 2, **changed})).spec.key for changed in requests]
    assert len(set(keys)) == 5, "the type where none is named is one of both"


def test_published_adapters_carry_the_key_of_their_start_point(tmp_path):
    made, other = run(lr=1e-3), run(lr=1e-4)
    folder = adapter_files(tmp_path / "init")
    manifests = [of_adapter(one, folder, "initialised", "alice/x").manifest for one in (made, other)]
    assert [one.start for one in manifests] == [start_of(made.spec).key] * 2
    assert start_of(made.spec).key != made.spec.key


def test_the_split_of_ones_own_data_is_part_of_the_start_point(model, api, tmp_path):
    repo = "alice/own-splits"
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    for split in ("train", "test"):
        text = "".join(json.dumps({"text": f"{split} {i}"}) + "\n" for i in range(9))
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=f"{split}.jsonl", repo_id=repo, repo_type="dataset")
    first, second = (
        plan_start(StartRequest(model, "filet", data=repo, data_split=split, rank=2)) for split in ("train", "test")
    )
    assert first.spec.data.revisions == second.spec.data.revisions
    assert first.spec.key != second.spec.key
    assert first.default_folder != second.default_folder
    own = first.spec.data.own
    assert (own.split, own.config, own.columns) == ("train", None, {})
    again = first.spec.model_validate_json(first.spec.model_dump_json())
    assert again.key == first.spec.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 17}, "rank 17 is above"),
        ({"alpha": 0.0}, "alpha positive"),
        ({"target_modules": ("foo",)}, "matches no linear layer"),
        ({"method": "kasa"}, "'kasa' has no start point of its own"),
        ({"method": "peft:road"}, "PEFT cannot attach peft:road"),
        ({"task": "arc-easy", "data_split": "test"}, "say more about --data"),
        ({"overrides": ("calibration.samples=3",)}, "say calibration_samples instead"),
        ({"task": "image"}, "'cars' is a vision task"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_model_is_loaded(model, monkeypatch, changes, message):
    monkeypatch.setattr("hubinit.models.base.load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(HubinitError, match=message):
        plan_start(replace(StartRequest(model, "pissa", rank=2), **changes))


def test_more_calibration_samples_than_rows(model, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    request = StartRequest(model, "filet", data=str(tmp_path / "own.jsonl"), rank=2)
    plan_start(request)
    with pytest.raises(HubinitError, match=r"own.jsonl has 2 examples, and 3 are asked for"):
        plan_start(replace(request, calibration_samples=3))


def test_a_matrix_too_large_is_refused_at_once(model, monkeypatch):
    request = MatrixRequest((model,), ("pissa",), ("arc-easy",), tuple(range(1, MOST + 2)))
    monkeypatch.setattr(names, "folder_hash", lambda folder: "a" * 40)
    with pytest.raises(HubinitError, match="10,001 start points; one command makes at most 10,000"):
        plan_matrix(request)
    with pytest.raises(HubinitError, match="rank 17 is above"):
        plan_matrix(replace(request, ranks=(2, 17)))
