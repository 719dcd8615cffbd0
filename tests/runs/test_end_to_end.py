"""The main job as a user runs it: the command line, the embedded Hub, a tiny model, every stage, twice."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubinit.records import ITEMS, ResultStore, items_name, read_items
from tests import texts
from tests.command_line import run

METHODS = "none,lora,pissa,filet,lora-da"
SMALL = ("recipe.steps=3", "samples=24", "validation_samples=4", "limit=6", "calibration_samples=6", "rank=2")


def hubinit(*arguments, code=0):
    """Runs the command line; the workers that it starts are processes of their own."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-3000:]
    assert "hf_alice" not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def seeded(hub, tmp_path_factory):
    """A tiny model and a tiny ARC-Easy on the embedded Hub."""
    folder = texts.save_model(tmp_path_factory.mktemp("model"))
    store = hub.store
    files = {path.name: path for path in folder.iterdir()}
    store.create_repo("model", "tiny/llama")
    store.commit("model", "tiny/llama", files, message="seed", author="tests")
    data = tmp_path_factory.mktemp("data")
    splits = {"train": texts.arc(40), "validation": texts.arc(8, first=40), "test": texts.arc(12, first=48)}
    for name, rows in splits.items():
        rows.to_parquet(str(data / f"{name}.parquet"))
    card = "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n" + "".join(
        f"  - split: {name}\n    path: ARC-Easy/{name}.parquet\n" for name in splits
    )
    content = {f"ARC-Easy/{name}.parquet": data / f"{name}.parquet" for name in splits}
    store.create_repo("dataset", "allenai/ai2_arc", exist_ok=True)
    store.commit(
        "dataset", "allenai/ai2_arc", {**content, "README.md": (card + "---\n").encode()}, message="s", author="t"
    )
    return hub


@pytest.fixture(scope="module")
def bench(seeded, tmp_path_factory):
    """The command with its options, the folder of its results, and what it printed the first time."""
    out = tmp_path_factory.mktemp("runs")
    command = [
        "bench",
        "--models",
        "tiny/llama",
        "--methods",
        METHODS,
        "--tasks",
        "arc-easy",
        "--protocol",
        "quickstart",
    ]
    command += [part for setting in SMALL for part in ("--set", setting)]
    command += ["--out", str(out), "--push-to", "alice", "--json"]
    return command, ResultStore(out), json.loads(hubinit(*command).stdout)


def test_every_run_ends_with_scores_costs_and_gates(bench):
    _, store, printed = bench
    results = {result.spec.method.name: result for result in store.results()}
    assert set(results) == set(METHODS.split(","))
    assert [result["status"] for result in printed["results"]] == ["ok"] * 5
    assert printed["errors"] == []
    for name, result in results.items():
        assert {score.metric for score in result.scores} == {"acc", "acc_norm"}
        assert all(score.n == 6 for score in result.scores)
        assert result.spec.model.revision == HfApi().model_info("tiny/llama").sha
        if name == "none":
            continue
        assert set(result.gates) == {"start", "printed", "trained", "reload"}
        assert len(result.curve) == 3
        assert result.validation_loss > 0
        assert result.adapter_bytes > 0
        stages = {"load", "initialise", "train", "diagnose", "evaluate"}
        assert set(result.costs) == stages | ({"calibrate"} if name in {"filet", "lora-da"} else set())


def test_every_score_is_the_mean_of_kept_answers(bench):
    _, store, printed = bench
    for result in store.results():
        for score in result.scores:
            items = read_items(store.folder(result.key) / ITEMS / items_name(score.eval), score.items)
            assert len(items) == score.n
            assert sum(item.values[score.metric] for item in items) / len(items) == pytest.approx(score.value)
            assert all(item.prompt_hash and item.log_likelihoods and score.metric in item.extracted for item in items)
            assert score.contaminated == (None if result.spec.method.name == "none" else 0)
    trained = [name for name in published_models(printed) if "-init-" not in name]
    assert len(trained) == 4
    for repo in trained:
        assert any(name.startswith(f"{ITEMS}/arc-easy-") for name in HfApi().list_repo_files(repo))


def test_show_reads_them(bench):
    _, store, printed = bench
    keys = {result.spec.method.name: result.key for result in store.results()}
    found = json.loads(hubinit("show", keys["lora"][:8], "--out", store.root, "--json").stdout)
    assert (found["n"], len(found["items"]), found["metric"]) == (6, 6, "acc")
    assert found["items"][0]["question"].startswith("What comes after number")
    repo = next(name for name in published_models(printed) if "pissa-r" in name)
    both = json.loads(hubinit("show", keys["none"], "--compare", repo, "--out", store.root, "--json").stdout)
    assert sum(both[name] for name in ("both_right", "only_first", "only_second", "both_wrong")) == 6
    assert "right" in hubinit("show", keys["none"], "--out", store.root).stdout


def test_calibration_is_shared(bench):
    _, store, _ = bench
    assert len(list((store.root / "calibrations").iterdir())) == 1, "FILet and LoRA-DA share one pass"


def test_a_rerun_is_free_and_publishes_nothing_new(bench):
    command, store, first = bench
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("runs/*/result.json")}
    heads = {repo: HfApi().repo_info(repo).sha for repo in published_models(first)}
    again = json.loads(hubinit(*command).stdout)
    assert {path: path.stat().st_mtime_ns for path in store.root.glob("runs/*/result.json")} == before
    assert again["ranking"] == first["ranking"]
    assert {repo: HfApi().repo_info(repo).sha for repo in published_models(again)} == heads
    rows = json.loads(hubinit(*command, "--dry-run").stdout)
    assert {row["state"] for row in rows} == {"cached"}


def test_one_more_evaluation_reuses_the_trained_adapter(bench):
    command, store, _ = bench
    trained = {result.key: result.adapter_sha256 for result in store.results()}
    hubinit(*command[: command.index("--push-to")], "--set", "limit=9", "--json")
    results = list(store.results())
    assert {result.key: result.adapter_sha256 for result in results} == trained
    assert all({score.n for score in result.scores} == {6, 9} for result in results)
    for result in results:  # the earlier answers are still there
        for score in result.scores:
            assert len(read_items(store.folder(result.key) / ITEMS / items_name(score.eval), score.items)) == score.n


def test_the_published_start_point_loads_as_printed(bench, tmp_path):
    """In a process that has only transformers and peft, the card's snippet rebuilds the start point of FILet."""
    _, store, printed = bench
    repo = next(name for name in published_models(printed) if "filet-init" in name)
    card = HfApi().hf_hub_download(repo, "README.md")
    snippet = Path(card).read_text().split("```python\n")[1].split("```")[0]
    key = next(result.key for result in store.results() if result.spec.method.name == "filet")
    check = f"""
import sys, torch
assert "hubinit" not in sys.modules
ids = torch.arange(1, 20)[None]
with torch.inference_mode():
    found = model(input_ids=ids).logits
    base = AutoModelForCausalLM.from_pretrained("tiny/llama", dtype=torch.float32).eval()(input_ids=ids).logits
print((found - base).norm().item() / base.norm().item(), sum(p.requires_grad for p in model.parameters()))
from safetensors.torch import load_file
stored = load_file({str(store.folder(key) / "init" / "adapter_model.safetensors")!r})
state = {{name.replace(".default", ""): value for name, value in model.state_dict().items()}}
assert all(torch.equal(state[name], value) for name, value in stored.items())
"""
    script = tmp_path / "snippet.py"
    script.write_text(snippet + check)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    deviation, trainable = done.stdout.split()[-2:]
    assert float(deviation) < 1e-5
    assert int(trainable) == 28, "A and B of 14 linear layers train, the anchor and the base do not"


def test_the_leaderboard_data_set_has_every_row(bench):
    from datasets import load_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = load_dataset("alice/hubinit-leaderboard", split="train").to_pandas()
    assert set(runs["method"]) == set(METHODS.split(","))
    assert len(runs[runs["limit"] == 6]) == 10
    text = Path(HfApi().hf_hub_download("alice/hubinit-leaderboard", "README.md", repo_type="dataset")).read_text()
    assert "filet" in text
    assert "| method" in text


def test_a_failed_gate_is_a_failed_run_and_the_others_go_on(seeded, tmp_path):
    """A learning rate too small to show trains nothing: the gate says so, and the base's run is not touched by it."""
    done = hubinit(
        *(
            "bench",
            "--models",
            "tiny/llama",
            "--methods",
            "none,lora",
            "--tasks",
            "arc-easy",
            "--protocol",
            "quickstart",
        ),
        *(part for setting in SMALL for part in ("--set", setting)),
        *("--lrs", "1e-30", "--out", tmp_path, "--json"),
        code=1,
    )
    status = {r["spec"]["method"]["name"]: (r["status"], r["reason"]) for r in json.loads(done.stdout)["results"]}
    assert status["none"][0] == "ok"
    assert status["lora"][0] == "failed"
    assert "trained gate" in status["lora"][1]


@pytest.mark.slow
def test_full_fine_tuning_is_scored_and_ranked_but_not_published(seeded, tmp_path):
    command = ["bench", "--models", "tiny/llama", "--methods", "full,lora", "--tasks", "arc-easy"]
    command += ["--protocol", "quickstart", *(part for setting in SMALL for part in ("--set", setting))]
    command += ["--out", str(tmp_path)]
    planned = json.loads(hubinit(*command, "--dry-run", "--json").stdout)
    needs = {run["spec"]["method"]["name"]: run["memory_bytes"] for run in planned}
    assert min(needs["full"], needs["lora"]) > 0
    printed = json.loads(hubinit(*command, "--push-to", "alice", "--json").stdout)
    assert [result["status"] for result in printed["results"]] == ["ok", "ok"]
    assert {line["method"] for line in printed["ranking"]} == {"full", "lora"}
    assert not [line for line in printed["published"] if "full" in line]
    (full,) = (result for result in ResultStore(tmp_path).results() if result.spec.method.name == "full")
    assert (tmp_path / "runs" / full.key / "weights" / "model.safetensors").stat().st_size == full.adapter_bytes


def test_data_that_are_missing_or_changed_cost_their_own_scores(seeded, tmp_path):
    """PIQA is not on this Hub, and BoolQ has other columns there; ARC-Easy goes on, and each run says `partial` and why."""
    seeded.store.create_repo("dataset", "aps/super_glue", exist_ok=True)
    table = tmp_path / "boolq.parquet"
    texts.arc(4).rename_column("question", "query").to_parquet(str(table))
    card = b"---\nconfigs:\n- config_name: boolq\n  data_files:\n  - {split: train, path: a.parquet}\n" + (
        b"  - {split: validation, path: a.parquet}\n---\n"
    )
    files = {"a.parquet": table, "README.md": card}
    seeded.store.commit("dataset", "aps/super_glue", files, message="s", author="t")
    done = hubinit(
        *("bench", "--models", "tiny/llama", "--methods", "none,lora", "--protocol", "quickstart"),
        *("--tasks", "arc-easy,piqa", "--eval-tasks", "arc-easy,piqa,boolq"),
        *(part for setting in SMALL for part in ("--set", setting)),
        *("--out", tmp_path / "runs", "--json"),
        code=1,
    )
    printed = json.loads(done.stdout)
    assert len(printed["results"]) == 2, "nothing trains on PIQA"
    assert len(printed["errors"]) == 1 and "baber/piqa" in printed["errors"][0]
    for result in printed["results"]:
        assert result["status"] == "partial"
        assert {score["task"] for score in result["scores"]} == {"arc-easy"}
        assert "piqa: Cannot load the data set baber/piqa" in result["reason"]
        assert "boolq: " in result["reason"]
        assert "\n" not in result["reason"]
    assert {row["task"] for row in printed["ranking"]} == {"arc-easy"}


def test_train_and_eval_alone(seeded, tmp_path):
    sets = [part for setting in SMALL for part in ("--set", setting)]
    hubinit(
        *("train", "tiny/llama", "--task", "arc-easy", "--method", "pissa", "--protocol", "quickstart", *sets),
        *("--out", tmp_path),
    )
    (result,) = ResultStore(tmp_path).results()
    assert result.scores == ()
    adapter = tmp_path / "runs" / result.key / "adapter"
    scores = json.loads(hubinit("eval", adapter, "--tasks", "arc-easy", "--limit", "6", "--json").stdout)
    base = json.loads(hubinit("eval", "tiny/llama", "--tasks", "arc-easy", "--limit", "6", "--json").stdout)
    assert [score["n"] for score in scores + base] == [6] * 4


def published_models(printed):
    return ["/".join(url.split("/")[-2:]) for url in printed["published"] if "/datasets/" not in url]


@pytest.mark.slow
def test_a_fair_comparison_scores_each_method_at_its_own_rate_and_at_the_default_one(seeded, tmp_path):
    small = (
        "search.extend=0",
        "learning_rates=[2.0e-4,1.0e-2]",
        "seeds=[0,1]",
        "search.rungs=[0.5]",
        *SMALL,
        "recipe.steps=4",
    )
    command = [
        "bench",
        "--models",
        "tiny/llama",
        "--methods",
        "lora,pissa",
        "--tasks",
        "arc-easy",
        "--protocol",
        "fair",
    ]
    command += [part for setting in small for part in ("--set", setting)]
    command += ["--out", str(tmp_path), "--json"]
    printed = json.loads(hubinit(*command).stdout)
    (decisions,) = printed["search"]
    (path,) = (tmp_path / "fair").iterdir()
    assert json.loads(path.read_text()) == decisions
    stored = {result.key: result for result in ResultStore(tmp_path).results()}
    for one in decisions["methods"]:
        assert {(tried["learning_rate"], tried["share"]) for tried in one["tried"]} >= {(2e-4, 0.5), (1e-2, 0.5)}
        assert {final["learning_rate"] for final in one["finals"]} == {one["chosen_rate"], 2e-4}
        scored = {final["key"] for final in one["finals"]}
        assert all(stored[key].scores for key in scored)
        assert not any(stored[tried["key"]].scores for tried in one["tried"] if tried["key"] not in scored)
        assert one["parameters_to_lora"] == 1.0
    tuned = {one["method"]: one["tuned_rate"] for one in decisions["methods"]}
    assert {line["method"]: line["lr"] for line in printed["ranking"]} == tuned
    assert json.loads(hubinit(*command).stdout)["search"] == printed["search"]
