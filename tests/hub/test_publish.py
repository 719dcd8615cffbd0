"""Publishing with the real client to the embedded Hub."""

import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants
from safetensors.numpy import save_file

from hubinit.errors import HubError, first_line
from hubinit.hub.outbox import queue_rows
from hubinit.hub.publication import of_adapter
from hubinit.hub.send import send
from hubinit.hub.tables import LEADERBOARD, publish, read
from hubinit.leaderboard.table import merge, table
from hubinit.paths import sha256_of
from hubinit.records import Manifest, ResultStore
from hubinit.runs.publishing import Publisher
from hubinit.tasks import TASKS
from tests.hub.builders import adapter_files, logits, publish_run, publish_tiny_llama, run, run_folder, visible_adapter


def commits(api: HfApi, repo_id: str, repo_type: str = "model") -> int:
    return len(api.list_repo_commits(repo_id, repo_type=repo_type))


def test_a_run_becomes_two_complete_repos_each_by_one_commit(api, tmp_path):
    result = run(seed=11)
    published = publish_run(api, result, run_folder(tmp_path), "alice", private=False)
    assert [repo.repo_type for repo in published] == ["model", "model"]
    for repo in published:
        info = api.model_info(repo.repo_id)
        assert repo.changed
        assert not info.private
        assert {"hubinit", "lora", "filet"} <= set(info.tags)
        made = [c for c in api.list_repo_commits(repo.repo_id) if c.title.startswith("filet")]
        assert len(made) == 1
        files = {entry.path for entry in api.list_repo_tree(repo.repo_id, recursive=True) if hasattr(entry, "size")}
        manifest = Manifest.model_validate_json(Path(api.hf_hub_download(repo.repo_id, "hubinit.json")).read_bytes())
        assert files - {".gitattributes"} == {*manifest.files, "hubinit.json", "README.md"}
        for name, digest in manifest.files.items():
            assert sha256_of(Path(api.hf_hub_download(repo.repo_id, name))) == digest
    assert any(name.startswith("anchor/") for name in api.list_repo_files(published[0].repo_id))


def test_a_client_with_xet_publishes_to_a_hub_without_it(api, tmp_path, monkeypatch):
    """hf_xet asks for a token that the embedded Hub does not have; the files then go the plain way, in the same command."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    folder = adapter_files(tmp_path / "init")
    weights = {"base_model.model.q.lora_A.weight": np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")
    send(api, of_adapter(run(seed=13), folder, "initialised", "alice/with-xet"))
    assert "adapter_model.safetensors" in api.list_repo_files("alice/with-xet")
    assert constants.HF_HUB_DISABLE_XET, "the plain way from now on"


def test_repos_are_private_unless_asked_and_never_hidden_again(api, tmp_path):
    [repo, _] = publish_run(api, run(seed=12), run_folder(tmp_path), "alice")
    assert api.model_info(repo.repo_id).private
    publish_run(api, run(seed=12), tmp_path, "alice", private=False)
    assert not api.model_info(repo.repo_id).private
    publish_run(api, run(seed=12), tmp_path, "alice", private=True)
    assert not api.model_info(repo.repo_id).private


def test_publishing_again_changes_nothing(api, tmp_path):
    folder = run_folder(tmp_path)
    before = publish_run(api, run(seed=13), folder, "alice")
    counts = [commits(api, repo.repo_id) for repo in before]
    again = publish_run(api, run(seed=13), folder, "alice")
    assert [repo.changed for repo in again] == [False, False]
    assert [commits(api, repo.repo_id) for repo in again] == counts


def test_learning_rates_share_one_start_point(api, tmp_path):
    first = publish_run(api, run(lr=1e-4, seed=14), run_folder(tmp_path / "a"), "alice")
    second = publish_run(api, run(lr=1e-3, seed=14, value=0.6), run_folder(tmp_path / "b"), "alice")
    assert first[0].repo_id == second[0].repo_id
    assert not second[0].changed
    assert first[1].repo_id != second[1].repo_id
    changed = publish_run(api, run(lr=1e-3, seed=14), run_folder(tmp_path / "c", scale=2.0), "alice")
    assert changed[0].changed, "other weights are published"


def test_the_base_has_nothing_to_publish(api, tmp_path):
    assert publish_run(api, run("none"), tmp_path, "alice") == []


def test_the_licence_of_the_base_is_inherited(api, tmp_path):
    api.create_repo("alice/licensed", exist_ok=True)
    api.upload_file(
        path_or_fileobj=b"---\nlicense: other\nlicense_name: tiny\nlicense_link: LICENSE\n---\n",
        path_in_repo="README.md",
        repo_id="alice/licensed",
    )
    result = run(seed=15, model="alice/licensed", revision=None)
    [repo, _] = publish_run(api, result, run_folder(tmp_path), "alice")
    data = api.model_info(repo.repo_id).card_data
    assert (data.license, data.license_name, data.license_link) == ("other", "tiny", "LICENSE")


def test_only_a_full_score_on_a_registered_benchmark_becomes_an_eval_result(api, tmp_path):
    api.create_repo("alice/bench", repo_type="dataset")
    api.upload_file(
        path_or_fileobj=b"name: b\nevaluation_framework: inspect-ai\ntasks:\n- {id: arc_easy}\n- {id: other}\n",
        path_in_repo="eval.yaml",
        repo_id="alice/bench",
        repo_type="dataset",
    )
    tasks = {"arc-easy": replace(TASKS["arc-easy"], dataset="alice/bench"), "piqa": TASKS["piqa"]}
    result = run(seed=17, tasks=("arc-easy", "piqa"))
    part = publish_run(api, result, run_folder(tmp_path / "a"), "alice", tasks=tasks)[1]
    assert not [name for name in api.list_repo_files(part.repo_id) if name.startswith(".eval_results")]
    scores = [s.model_copy(update={"eval": s.eval.model_copy(update={"limit": None})}) for s in result.scores]
    whole = result.model_copy(update={"scores": tuple(scores)})
    full = publish_run(api, whole, tmp_path / "a", "alice", tasks=tasks)[1]
    [entry] = api.model_info(full.repo_id, expand=["evalResults"]).eval_results
    assert (entry.dataset_id, entry.task_id, entry.value) == ("alice/bench", "arc_easy", 0.5)
    assert "standard error 0.0500" in entry.notes
    [row] = api.get_dataset_leaderboard("alice/bench", base_model_only=False)
    assert row.model_id == full.repo_id


def test_weights_that_are_not_the_scored_ones_are_not_published(api, tmp_path):
    folder = run_folder(tmp_path)
    scored = sha256_of(folder / "adapter" / "adapter_model.safetensors")
    result = run(seed=18).model_copy(update={"adapter_sha256": scored})
    assert len(publish_run(api, result, folder, "alice")) == 2
    adapter_files(folder / "adapter", scale=5.0)
    with pytest.raises(HubError, match="not the adapter that the result of this run scored"):
        publish_run(api, result, folder, "alice")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), HubError("It is not there."), OSError()])
def test_a_failure_to_publish_is_kept_for_the_end(tmp_path, error):
    publisher = Publisher(ResultStore(tmp_path), "alice", {}, private=True)

    def publish():
        raise error

    publisher._attempt(publish)
    [failure] = publisher.failures
    reason = first_line(error)
    assert failure == f"Not published: {reason}. The result is on disk; the same command publishes it later."
    assert reason in ("[Errno 28] No space left on device", "It is not there", "OSError")


def test_another_users_namespace_is_refused_in_one_sentence(api, tmp_path):
    with pytest.raises(HubError, match=r"Cannot create bob/.*write access") as caught:
        publish_run(api, run(seed=16), run_folder(tmp_path), "bob")
    assert "hf_alice" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_leaderboard_dataset_loads_and_shows_the_ranking(api, tmp_path):
    results = [run("lora", seed=s, value=0.5 + s / 100) for s in range(3)]
    results += [run("filet", seed=s, value=0.6 + s / 100) for s in range(3)] + [run("pissa", value=None)]
    published = publish(api, LEADERBOARD, results, "alice/board", private=False)
    assert published is not None
    card = Path(api.hf_hub_download("alice/board", "README.md", repo_type="dataset")).read_text()
    assert "| filet |" in card
    assert "out of memory" in card
    from datasets import load_dataset

    rows = load_dataset("alice/board", "runs", split="train", cache_dir=str(tmp_path))
    assert len(rows) == 7
    assert publish(api, LEADERBOARD, results, "alice/board") is None, "nothing new, no commit"
    assert commits(api, "alice/board", "dataset") == 2  # its creation and the rows


def test_new_rows_join_those_already_there(api):
    publish(api, LEADERBOARD, [run(seed=0)], "alice/board-2")
    publish(api, LEADERBOARD, [run(seed=1, value=None)], "alice/board-2")
    publish(api, LEADERBOARD, [run(seed=1), run("none")], "alice/board-2")
    runs = read(api, LEADERBOARD, "alice/board-2")
    assert sorted(zip(runs["method"], runs["seed"], runs["status"], strict=True)) == [
        ("filet", 0, "ok"), ("filet", 1, "ok"), ("none", 0, "ok")
    ]  # fmt: skip


def test_a_dataset_that_is_not_a_leaderboard_is_left_alone(api):
    api.create_repo("alice/board-3", repo_type="dataset")
    api.upload_file(
        path_or_fileobj=b"PAR1 no", path_in_repo=LEADERBOARD.file, repo_id="alice/board-3", repo_type="dataset"
    )
    with pytest.raises(HubError, match="is not a leaderboard"):
        publish(api, LEADERBOARD, [run()], "alice/board-3")


def test_a_token_in_a_result_reaches_neither_the_hub_nor_the_outbox(api, tmp_path):
    leaky = run(command="HF_TOKEN=hf_alice hubinit bench")
    with pytest.raises(HubError, match="access token"):
        publish(api, LEADERBOARD, [leaky], "alice/leaky")
    with pytest.raises(HubError, match="access token"):
        queue_rows(tmp_path, LEADERBOARD, [leaky], "alice/leaky")
    assert not api.repo_exists("alice/leaky", repo_type="dataset")
    assert not list(tmp_path.rglob("*.json"))


def test_twenty_publishers_at_once_lose_and_double_nothing(api):
    results = [run(seed=seed, value=seed / 100, tasks=("arc-easy", "piqa")) for seed in range(20)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda result: publish(api, LEADERBOARD, [result], "alice/crowd"), results))
    expected = merge(table([]), table(results))
    found = read(api, LEADERBOARD, "alice/crowd")
    assert found.equals(expected)
    content = Path(api.hf_hub_download("alice/crowd", LEADERBOARD.file, repo_type="dataset")).read_bytes()
    assert pq.read_table(io.BytesIO(content)).num_rows == 40
    assert commits(api, "alice/crowd", "dataset") == 21


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]


CHECK = """
import sys
import torch
logits = model(torch.arange(2, 12)[None]).logits
torch.save({"logits": logits, "trainable": sorted(n for n, p in model.named_parameters() if p.requires_grad)}, sys.argv[1])
assert not any(name.split(".")[0] in ("hubinit", "leaderboard") for name in sys.modules)
"""


def test_printed_snippets_run_with_transformers_and_peft_alone_and_rebuild_the_models(api, tmp_path):
    import torch

    from tests.cases import build

    plain = logits(build("llama"))
    trained = visible_adapter(tmp_path / "run" / "adapter")
    visible_adapter(tmp_path / "run" / "init")
    visible_adapter(tmp_path / "run" / "init" / "anchor", sign=-1.0)
    assert (trained - plain).abs().max() > 0.1, "the adapter must be visible"
    base, revision = publish_tiny_llama(api, tmp_path / "base")
    result = run(seed=21, model=base, revision=revision)
    start, outcome = publish_run(api, result, tmp_path / "run", "alice")
    for repo, expected in ((start.repo_id, plain), (outcome.repo_id, trained)):
        card = Path(api.hf_hub_download(repo, "README.md")).read_text()
        script = tmp_path / "snippet.py"
        script.write_text(snippet(card) + "\n" + CHECK)
        done = subprocess.run(
            [sys.executable, "-I", script, tmp_path / "out.pt"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        out = torch.load(tmp_path / "out.pt")
        torch.testing.assert_close(out["logits"], expected, atol=1e-5, rtol=1e-5)
        assert bool(out["trainable"]) == (repo == start.repo_id), "only the start point is loaded for training"
    assert (
        json.loads(Path(api.hf_hub_download(start.repo_id, "adapter_config.json")).read_text())["revision"] == revision
    )
