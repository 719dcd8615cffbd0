"""Evaluation results and leaderboards through the real client."""

import pytest
import yaml
from huggingface_hub import EvalResultEntry, HfApi, eval_result_entries_to_yaml
from huggingface_hub.errors import HfHubHTTPError

bob = HfApi(token="hf_bob")
BENCHMARK = "alice/benchmark"
NO_NUMBER = [
    f"- {{dataset: {{id: alice/benchmark, task_id: b}}, value: {value}}}" for value in ("high", ".nan", "true")
]
BAD = ["[", "- 3", "- value: 1", "&a [*a]", "[" * 100_000, *NO_NUMBER]


@pytest.fixture(scope="module", autouse=True)
def repos(hub):
    api = HfApi(token="hf_alice")
    api.create_repo(BENCHMARK, repo_type="dataset")
    task = b"name: Benchmark\ntasks:\n- id: default\n"
    api.upload_file(path_or_fileobj=task, path_in_repo="eval.yaml", repo_id=BENCHMARK, repo_type="dataset")
    publish(api, "alice/base-low", 0.3)
    publish(api, "alice/base-high", 0.7)
    publish(api, "alice/ranked-adapter", 0.9, card="---\nbase_model: alice/base-high\n---\n")
    publish(api, "alice/hidden", 0.99, private=True)


def results(value, **fields):
    entry = EvalResultEntry(dataset_id=BENCHMARK, task_id="default", value=value, **fields)
    return yaml.dump(eval_result_entries_to_yaml([entry])).encode()


def publish(api, repo, value, card="---\nlicense: mit\n---\n", private=False):
    api.create_repo(repo, private=private)
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo)
    content = results(value, notes="rank 8", source_url="https://example.org/log", source_name="log")
    api.upload_file(path_or_fileobj=content, path_in_repo=".eval_results/benchmark.yaml", repo_id=repo)


def board(api, **options):
    return [(entry.rank, entry.model_id, entry.value) for entry in api.get_dataset_leaderboard(BENCHMARK, **options)]


def test_leaderboard_hides_derived_models_unless_asked(api):
    assert board(bob) == [(1, "alice/base-high", 0.7), (2, "alice/base-low", 0.3)]
    everything = board(bob, base_model_only=False)
    assert everything[0] == (1, "alice/ranked-adapter", 0.9)
    assert len(everything) == 3
    assert board(api)[0] == (1, "alice/hidden", 0.99)
    entry = bob.get_dataset_leaderboard(BENCHMARK)[0]
    assert (entry.author.username, entry.notes, entry.source["name"]) == ("alice", "rank 8", "log")
    assert (entry.filename, entry.verified, entry.pull_request) == (".eval_results/benchmark.yaml", False, None)


def test_eval_results_of_a_model(api):
    (entry,) = api.model_info("alice/base-low", expand=["evalResults"]).eval_results
    assert (entry.dataset_id, entry.task_id, entry.value, entry.source_name) == (BENCHMARK, "default", 0.3, "log")


@pytest.mark.parametrize("bad", BAD)
def test_invalid_files_are_reported_and_skipped(api, bad):
    api.create_repo("alice/invalid", exist_ok=True)
    api.upload_file(path_or_fileobj=bad.encode(), path_in_repo=".eval_results/x.yaml", repo_id="alice/invalid")
    assert api.model_info("alice/invalid", expand=["evalResults"]).eval_results == []
    assert "alice/invalid" not in [row[1] for row in board(api)]


def test_community_results_by_pull_request(api):
    info = bob.upload_file(
        path_or_fileobj=results(0.8),
        path_in_repo=".eval_results/community.yaml",
        repo_id="alice/base-low",
        create_pr=True,
    )
    number = int(info.pr_url.rsplit("/", 1)[1])
    rows = {entry.value: entry.pull_request for entry in bob.get_dataset_leaderboard(BENCHMARK)}
    assert rows == {0.8: number, 0.7: None, 0.3: None}
    api.change_discussion_status("alice/base-low", number, "closed")
    assert 0.8 not in {entry.value for entry in bob.get_dataset_leaderboard(BENCHMARK)}


def test_only_benchmarks_have_one(api):
    assert [item.id for item in api.list_datasets(benchmark=True, author="alice")] == [BENCHMARK]
    api.create_repo("alice/plain", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="no leaderboard"):
        api.get_dataset_leaderboard("alice/plain")
