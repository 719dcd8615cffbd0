"""A submission's way on the embedded Hub: proposed, checked, merged, aggregated, published, and read again."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from hubinit import tasks
from hubinit.hub import board_pages
from hubinit.hub.board_pages import ITEMS, SUMMARY, decode_values
from hubinit.hub.proposals import find_proposal
from hubinit.hub.tables import LEADERBOARD, claims_of, publish, read
from hubinit.hub.untrusted import Unreadable
from hubinit.leaderboard.build import to_parquet
from hubinit.leaderboard.items import Answered, items_table
from hubinit.records import ResultStore, Score, items_name
from hubinit.specs import EvalSpec
from tests.hub.builders import run
from tests.leaderboard.handed_in import EVALUATION, answered, command, hand_in
from tests.texts import save_arc


@pytest.fixture(scope="module", autouse=True)
def questions(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = save_arc(tmp_path_factory.mktemp("proposed") / "proposed-arc")
        patch.setitem(tasks.TASKS, "arc-easy", replace(tasks.get("arc-easy"), dataset=str(folder)))
        yield


@pytest.fixture(autouse=True)
def token(api, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", api.token)


def propose(api, repo, folder, extra=()):
    """Opens a pull request with the results in a folder; returns its number."""
    names = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".parquet")]
    files = [CommitOperationAdd(path.relative_to(folder).as_posix(), path.read_bytes()) for path in names]
    done = api.create_commit(repo, [*files, *extra], commit_message="x", repo_type="dataset", create_pr=True)
    return int(done.pr_num)


def test_proposed_checked_merged_and_published(api, tmp_path, capsys):
    repo = "alice/way-board"
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    hand_in(mine)
    assert command("push", str(mine), "--to", repo) == 0
    result = hand_in(theirs, seed=1)
    number = propose(api, repo, theirs)
    report = tmp_path / "verdict.md"
    capsys.readouterr()
    assert command("validate", repo, "--pr", str(number), "--json", "--markdown", str(report)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["rows"], found["runs"][0]["key"]) == (True, 2, result.key)
    assert "Accepted: 1 run, 2 new rows" in report.read_text()
    assert len(claims_of(api, repo).rows) == 2
    api.merge_pull_request(repo, number, repo_type="dataset")
    assert command("push", "--to", repo) == 0
    assert len(read(api, LEADERBOARD, repo)) == 4
    head = api.dataset_info(repo).sha
    assert command("push", "--to", repo) == 0
    assert api.dataset_info(repo).sha == head, "a second push changes nothing"
    assert len(claims_of(api, repo).values) == 2, "both are still paired question by question"


def test_another_task_of_a_known_adapter_is_aggregated_once_it_is_merged(api, tmp_path, capsys):
    repo = "alice/grown-board"
    known = hand_in(tmp_path / "mine")
    assert command("push", str(tmp_path / "mine"), "--to", repo) == 0
    more = EvalSpec(task="arc-easy", limit=4)
    items, store = answered(0)[:4], ResultStore(tmp_path / "theirs")
    value = sum(item.values["acc"] for item in items) / 4
    score = Score(task="arc-easy", metric="acc", value=value, n=4, primary=True, eval=more)
    store.write(hand_in(store.root).model_copy(update={"scores": tuple(store.write_items(known.key, [score], items))}))
    other = store.folder(known.key) / "items" / items_name(EVALUATION)
    other.unlink()  # of the task that is known, which this result does not name
    number = propose(api, repo, store.root)
    capsys.readouterr()
    assert command("validate", repo, "--pr", str(number), "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    api.merge_pull_request(repo, number, repo_type="dataset")
    assert command("push", "--to", repo) == 0
    assert sorted(read(api, LEADERBOARD, repo)["n"]) == [4, 6, 6]
    head = api.dataset_info(repo).sha
    assert command("push", "--to", repo) == 0
    assert api.dataset_info(repo).sha == head, "a second push changes nothing"


def test_a_pull_request_that_changes_other_files_is_rejected(api, tmp_path, capsys):
    repo = "alice/attacked-board"
    hand_in(tmp_path / "mine")
    assert command("push", str(tmp_path / "mine"), "--to", repo) == 0
    hand_in(tmp_path / "theirs", seed=1)
    extra = [
        CommitOperationAdd("README.md", b"# mine\n"),
        CommitOperationAdd("data/evil.py", b"import os"),
        CommitOperationDelete(SUMMARY),
    ]
    number = propose(api, repo, tmp_path / "theirs", extra)
    publish(api, LEADERBOARD, [run(seed=7)], repo)  # main goes on, which is not the stranger's doing
    proposal = find_proposal(api, repo, number)
    assert list(proposal.wrong) == [
        "it changes README.md, which is not part of a submission",
        "it changes data/evil.py, which is not part of a submission",
        f"it deletes {SUMMARY}",
    ]
    capsys.readouterr()
    assert command("validate", repo, "--pr", str(number)) == 3
    assert "REJECTED" in capsys.readouterr().out
    assert command("validate", repo, "--pr", "99") == 1


def test_a_contradiction_that_was_merged_all_the_same_does_not_stand(api, tmp_path, capsys):
    repo = "alice/contradicted-board"
    hand_in(tmp_path / "mine", seed=3)
    assert command("push", str(tmp_path / "mine"), "--to", repo) == 0
    before = read(api, LEADERBOARD, repo)
    hand_in(tmp_path / "theirs", seed=3, items=answered(8))
    number = propose(api, repo, tmp_path / "theirs")
    capsys.readouterr()
    assert command("validate", repo, "--pr", str(number)) == 3
    assert "another row of this key stands" in capsys.readouterr().out
    api.merge_pull_request(repo, number, repo_type="dataset")
    assert command("push", "--to", repo) == 0
    assert read(api, LEADERBOARD, repo).equals(before)


def test_all_three_tables_load_as_the_card_says(api, tmp_path):
    import pandas as pd
    from datasets import load_dataset

    repo = "alice/loaded-board"
    hand_in(tmp_path)
    assert command("push", str(tmp_path), "--to", repo) == 0
    summary = load_dataset(repo, "summary", split="train").to_pandas()
    assert {"measured", "reported"} == set(summary["origin"])
    assert load_dataset(repo, "runs", split="train").num_rows == 2
    assert load_dataset(repo, "items", split="train").num_rows == 1
    assert len(pd.read_parquet(f"hf://datasets/{repo}/{SUMMARY}")) == len(summary)
    loaded = load_dataset(repo, split="train")
    assert "key" in loaded.column_names, "runs are the default"


VALUES = {("a" * 64, "acc"): Answered("q", np.array([0.0, 1.0]))}


def test_values_by_question_of_strangers_are_bounded(monkeypatch):
    monkeypatch.setattr(board_pages, "VALUES", 1000)
    assert decode_values(to_parquet(items_table(VALUES)))["a" * 64, "acc"].values.tolist() == [0.0, 1.0]
    schema = items_table(VALUES).schema
    rows = {"items": ["a" * 64], "metric": ["acc"], "questions": ["q"], "values": [[0.0]]}
    for changes, reason in (
        ({"metric": ["x" * 1000]}, "too long"),
        ({"items": [None]}, "missing or too long"),
        ({"values": [None]}, "values are missing"),
        ({"values": [[0.0] * 1001]}, "unpacks to too much"),
    ):
        buffer = io.BytesIO()
        pq.write_table(pa.table(rows | changes, schema=schema), buffer, compression="zstd")
        with pytest.raises(Unreadable, match=reason):
            decode_values(buffer.getvalue())
    with pytest.raises(Unreadable):
        decode_values(b"PAR1" + os.urandom(100))


def test_spoilt_values_lose_the_pairing_and_nothing_else(api, tmp_path):
    repo = "alice/spoilt-board"
    hand_in(tmp_path)
    assert command("push", str(tmp_path), "--to", repo) == 0
    api.upload_file(path_or_fileobj=b"PAR1", path_in_repo=ITEMS, repo_id=repo, repo_type="dataset")
    assert claims_of(api, repo).values == {}
    assert command("push", str(tmp_path), "--to", repo) == 0
    assert len(claims_of(api, repo).values) == 1
