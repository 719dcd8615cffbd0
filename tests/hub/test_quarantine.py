"""One bad row, a bomb or another's forged row: publishing goes on, what is right stays, and what is not is kept aside."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubinit.errors import HubError
from hubinit.hub.catalogue import catalogue_row
from hubinit.hub.outbox import deliver_rows
from hubinit.hub.tables import CATALOGUE, LEADERBOARD, publish, read
from hubinit.hub.untrusted import decode
from hubinit.records import Manifest, ResultStore
from hubinit.runs.publishing import Publisher
from tests.hub.builders import publish_run, run, run_folder
from tests.hub.test_tables import row

TODAY = datetime.now(UTC)


def stored(table, items):
    """The rows of the items as plain dictionaries."""
    return pa.Table.from_pandas(table.rows(items), schema=table.schema, preserve_index=False).to_pylist()


def write(rows, **options):
    """Rows as parquet, of whatever types they are."""
    buffer = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


def upload(api, table, repo, content):
    """Puts a file in the place of a table, as anyone with write access can; returns the commit."""
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    return api.upload_file(path_or_fileobj=content, path_in_repo=table.file, repo_id=repo, repo_type="dataset").oid


def quarantine(api, repo):
    path = api.hf_hub_download(repo, "quarantine.jsonl", repo_type="dataset")
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def items(table, count):
    return (
        [run(seed=s) for s in range(count)] if table is LEADERBOARD else [row(f"alice/start-{s}") for s in range(count)]
    )


BAD = [
    (LEADERBOARD, "options", "no JSON", "options: Value error, is not JSON"),
    (LEADERBOARD, "options", "[1]", "is not a JSON object"),
    (LEADERBOARD, "options", "[" * 5000, "is nested too deeply"),
    (LEADERBOARD, "lr", None, "lr: Input should be a valid number"),
    (LEADERBOARD, "lr", float("nan"), "lr: Input should be a finite number"),
    (LEADERBOARD, "method", None, "method: Input should be a valid string"),
    (LEADERBOARD, "key", "../../etc", "key: String should match"),
    (LEADERBOARD, "value", 1.5, "lies between 0 and 1"),
    (LEADERBOARD, "value", float("inf"), "value: Input should be a finite number"),
    (LEADERBOARD, "status", "great", "status: Input should be 'ok'"),
    (LEADERBOARD, "created", "9999", "created: Value error, Invalid isoformat string"),
    (LEADERBOARD, "created", f"{TODAY.year + 1}-12-31T00:00:00+00:00", "lies in the future"),
    (LEADERBOARD, "recipe", '{"epochs": "many"}', "recipe"),
    (LEADERBOARD, "recipe", '{"epochs": "3", "of_a_newer": 1}', "epochs: Input should be a valid number"),
    (LEADERBOARD, "stderr", 1e308, "stderr: Input should be less than or equal to"),
    (LEADERBOARD, "train_samples", 2**60, "train_samples: Input should be less than"),
    (LEADERBOARD, "shots", None, "a score without its metric, primary, n or shots"),
    (LEADERBOARD, "reason", "x" * 50_000, "reason: String should have at most"),
    (LEADERBOARD, "reason", "€" * 20_000, "reason: String should have at most"),
    (LEADERBOARD, "model", "hf_" + "a" * 30, "looks like an access token"),
    (CATALOGUE, "options", "no JSON", "options: Value error, is not JSON"),
    (CATALOGUE, "method", None, "method: Input should be a valid string"),
    (CATALOGUE, "repo", "no repo", "repo: String should match"),
    (CATALOGUE, "start", "anywhere", "start: Input should be 'keep' or 'shift'"),
    (CATALOGUE, "created", "9999", "created: Value error"),
    (CATALOGUE, "alpha", -1.0, "alpha: Input should be greater"),
]


@pytest.mark.parametrize(("table", "column", "value", "reason"), BAD)
def test_a_bad_row_is_told_from_the_good_ones_beside_it(table, column, value, reason):
    one, two = stored(table, items(table, 2))
    rows = pa.Table.from_pylist([one, two | {column: value}], schema=table.schema)
    found = decode(write(rows), table.row, table.identity)
    assert found.rows.equals(table.rows(items(table, 1)))
    (bad,) = found.bad
    assert reason in bad.reason
    assert len(json.dumps(bad.row)) < 5000
    assert "hf_aaa" not in json.dumps(bad.row)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (LEADERBOARD, "options", "no JSON"),
        (LEADERBOARD, "lr", None),
        (LEADERBOARD, "method", None),
        (CATALOGUE, "options", "no JSON"),
        (CATALOGUE, "method", None),
    ],
)
def test_one_bad_row_stops_nobody_and_is_kept_with_its_reason_and_commit(api, table, column, value):
    repo = f"alice/bad-{table.name}-{column}"
    one, two, three = items(table, 3)
    publish(api, table, [one], repo)
    bad = stored(table, [two])[0] | {column: value}
    brought = upload(api, table, repo, write(pa.Table.from_pylist([*stored(table, [one]), bad], schema=table.schema)))
    said = []
    assert publish(api, table, [three], repo, on_problem=said.append)
    assert set(read(api, table, repo)[table.identity[0]]) == {getattr(item, table.identity[0]) for item in (one, three)}
    (line,) = quarantine(api, repo)
    assert line["reason"].startswith(column)
    assert line["commit"] == brought
    assert said[0].startswith("1 row is quarantined")
    assert line["reason"] in said[0]
    assert publish(api, table, [three], repo) is None, "it was cleaned once and for all"
    card = Path(api.hf_hub_download(repo, "README.md", repo_type="dataset")).read_text()
    assert "1 row could not stay in the table" in card


@pytest.mark.parametrize("table", [LEADERBOARD, CATALOGUE])
def test_a_row_that_was_overwritten_with_rubbish_comes_back(api, table):
    repo = f"alice/overwritten-{table.name}"
    one, two = items(table, 2)
    publish(api, table, [one], repo)
    upload(api, table, repo, write([stored(table, [one])[0] | {"options": "gone"}]))
    publish(api, table, [two], repo)
    assert len(read(api, table, repo)) == 2
    assert len(quarantine(api, repo)) == 1


@pytest.mark.parametrize("table", [LEADERBOARD, CATALOGUE])
def test_a_file_that_cannot_be_read_is_kept_aside_and_the_last_good_rows_go_on(api, table):
    repo = f"alice/unreadable-{table.name}"
    one, two = items(table, 2)
    publish(api, table, [one], repo)
    brought = upload(api, table, repo, b"PAR1 rubbish PAR1")
    upload(api, table, repo, b"PAR1 rubbish PAR1 again")
    said = []
    publish(api, table, [two], repo, on_problem=said.append)
    assert len(read(api, table, repo)) == 2
    (line,) = quarantine(api, repo)
    assert line["commit"] == brought
    kept = Path(api.hf_hub_download(repo, line["kept_as"], repo_type="dataset")).read_bytes()
    assert kept == b"PAR1 rubbish PAR1 again"
    assert "A file is quarantined" in said[0]


def test_columns_of_a_newer_hubinit_are_named_and_stop_nobody(api):
    upload(api, LEADERBOARD, "alice/newer", write([stored(LEADERBOARD, [run()])[0] | {"flavour": "x"}]))
    said = []
    publish(api, LEADERBOARD, [run(seed=1)], "alice/newer", on_problem=said.append)
    assert len(read(api, LEADERBOARD, "alice/newer")) == 2
    assert "flavour" in said[0] and "update hubinit" in said[0]


MEASURE = """
import json, resource, sys, time
from pathlib import Path
from hubinit.hub.untrusted import Unreadable, decode
from hubinit.leaderboard.rows import RunRow

before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    found = decode(Path(sys.argv[1]).read_bytes(), RunRow, ("key",))
    outcome = f"{len(found.rows)} good, {len(found.bad)} bad"
except Unreadable as error:
    outcome = str(error)
spent = time.process_time() - start
print(json.dumps([outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, spent]))
"""


@cache
def shared(size, times):
    """A file of rows that share one long text, which it holds once."""
    rows = pa.Table.from_pylist(stored(LEADERBOARD, [run()]), schema=LEADERBOARD.schema).take([0] * times)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array(["x" * size]))
    rows = rows.set_column(rows.schema.get_field_index("options"), "options", texts)
    return write(rows, compression="zstd", write_statistics=False)


BOMBS = [
    (200_000_000, 1, "column options has 200000"),
    (900_000, 50_000, "more than 250000000 bytes"),
    (30_000, 8_000, "more than 5000 of its rows"),
    (1, 300_000, "300000 rows"),
]


@pytest.mark.parametrize(("size", "times", "reason"), BOMBS)
def test_a_small_file_that_claims_gigabytes_costs_neither_memory_nor_time(tmp_path, size, times, reason):
    path = tmp_path / "bomb.parquet"
    path.write_bytes(shared(size, times))
    assert path.stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    outcome, megabytes, seconds = json.loads(done.stdout)
    assert reason in outcome
    assert megabytes < 200
    assert seconds < 5


def test_a_bomb_in_a_leaderboard_is_passed_over(api):
    publish(api, LEADERBOARD, [run()], "alice/bombed")
    upload(api, LEADERBOARD, "alice/bombed", shared(200_000_000, 1))
    publish(api, LEADERBOARD, [run(seed=1)], "alice/bombed")
    assert sorted(read(api, LEADERBOARD, "alice/bombed")["seed"]) == [0, 1]
    assert "200000" in quarantine(api, "alice/bombed")[0]["reason"]


@pytest.mark.parametrize("created", ["9999", "9999-12-31T00:00:00Z", f"{TODAY:%Y-%m-%d}T00:00:00+00:00"])
def test_a_forged_row_replaces_no_others(api, created):
    repo = f"alice/forged-{created[:10]}-{len(created)}"
    publish(api, LEADERBOARD, [run(value=0.5)], repo)
    true = read(api, LEADERBOARD, repo)
    forged = run(value=0.99)
    forged = forged.model_copy(update={"provenance": forged.provenance.model_copy(update={"created": created})})
    said = []
    publish(api, LEADERBOARD, [forged], repo, on_problem=said.append)
    publish(api, LEADERBOARD, [forged], repo)
    assert read(api, LEADERBOARD, repo).equals(true)
    (line,) = quarantine(api, repo)
    assert line["row"]["value"] == 0.99
    assert "1 row is quarantined" in said[0]


def test_scores_of_another_adapter_do_not_join_those_of_a_key(api):
    def made(adapter, value, tasks):
        return run(value=value, tasks=("arc-easy",)).model_copy(
            update={"adapter_sha256": adapter * 64, "scores": run(value=value, tasks=tasks).scores}
        )

    publish(api, LEADERBOARD, [made("a", 0.5, ("arc-easy",))], "alice/joined")
    publish(api, LEADERBOARD, [made("b", 0.9, ("piqa",))], "alice/joined")
    assert list(read(api, LEADERBOARD, "alice/joined")["task"]) == ["arc-easy"]
    publish(api, LEADERBOARD, [made("a", 0.6, ("boolq",))], "alice/joined")
    assert list(read(api, LEADERBOARD, "alice/joined")["task"]) == ["arc-easy", "boolq"]
    assert "adapter_sha256" in quarantine(api, "alice/joined")[0]["reason"]


def test_who_was_first_is_settled_by_the_history(api):
    """The file itself was edited: the row that was there before comes back when its publisher does."""
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/edited")
    upload(api, LEADERBOARD, "alice/edited", write(stored(LEADERBOARD, [run(value=0.99)])))
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/edited")
    assert list(read(api, LEADERBOARD, "alice/edited")["value"]) == [0.5]
    assert quarantine(api, "alice/edited")[0]["row"]["value"] == 0.99


def test_the_row_of_a_key_changes_with_its_published_adapter(api, tmp_path):
    """Its weights and its results are what the row says; only who may write to that repo can do it."""
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/proven")
    folder = run_folder(tmp_path)
    weights = sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    again = run(value=0.6).model_copy(update={"adapter_sha256": weights})
    publish(api, LEADERBOARD, [again], "alice/proven")
    assert list(read(api, LEADERBOARD, "alice/proven")["value"]) == [0.5]
    publish_run(api, again, folder, "alice")
    publish(api, LEADERBOARD, [again], "alice/proven")
    assert list(read(api, LEADERBOARD, "alice/proven")["value"]) == [0.6]
    lie = again.model_copy(update={"scores": run(value=0.9).scores})
    publish(api, LEADERBOARD, [lie, run(value=0.5)], "alice/proven")
    assert list(read(api, LEADERBOARD, "alice/proven")["value"]) == [0.6]
    assert {line["row"]["value"] for line in quarantine(api, "alice/proven")} == {0.5, 0.6, 0.9}


def test_a_catalogue_row_changes_only_with_its_repo(api):
    old = Manifest(kind="initialised", result=run(), files={})
    new = old.model_copy(update={"result": run().model_copy(update={"adapter_bytes": 77})})
    publish(api, CATALOGUE, [catalogue_row(old, "alice/stated", "keep")], "alice/stating")
    forged = row("alice/stated", model="evil/model", created=TODAY.isoformat())
    publish(api, CATALOGUE, [forged], "alice/stating")
    assert list(read(api, CATALOGUE, "alice/stating")["model"]) == ["alice/tiny-llama"]
    api.create_repo("alice/stated")
    api.upload_file(path_or_fileobj=new.json_text().encode(), path_in_repo="hubinit.json", repo_id="alice/stated")
    publish(api, CATALOGUE, [forged], "alice/stating")
    publish(api, CATALOGUE, [catalogue_row(new, "alice/stated", "keep")], "alice/stating")
    assert list(read(api, CATALOGUE, "alice/stating")["bytes"]) == [77]


def test_what_is_delivered_says_what_was_quarantined(api):
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/noted")
    done = deliver_rows(api, LEADERBOARD, [run(value=0.9)], "alice/noted")
    assert "1 row is quarantined in alice/noted" in str(done)


def test_a_rubbish_quarantine_stops_nobody(api):
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/rubbish")
    api.upload_file(
        path_or_fileobj=b'{"no": 1}\n[[[\n\xff\n', path_in_repo="quarantine.jsonl", repo_id="alice/rubbish",
        repo_type="dataset",
    )  # fmt: skip
    publish(api, LEADERBOARD, [run(value=0.9)], "alice/rubbish")
    assert len(quarantine(api, "alice/rubbish")) == 1


def test_another_data_set_is_refused_as_before(api):
    upload(api, LEADERBOARD, "alice/mine", write([{"text": "mine"}]))
    with pytest.raises(HubError, match="is not a leaderboard"):
        publish(api, LEADERBOARD, [run()], "alice/mine")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.just("x" * 40_000),
    st.sampled_from(["{}", "[1]", "9999", "<script>", '{"epochs": "x"}']),
    st.lists(st.integers(0, 9), max_size=2),
    st.datetimes(),
)
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([*LEADERBOARD.schema.names, "extra"]), VALUES), min_size=1, max_size=4
)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MUTATIONS, st.integers(0, 10**9))
def test_whatever_is_done_to_a_table_publishing_goes_on_and_good_rows_stay(api, mutations, number):
    repo = f"alice/mutated-{number}"
    results = [run(seed=seed) for seed in range(3)]
    api.delete_repo(repo, repo_type="dataset", missing_ok=True)
    publish(api, LEADERBOARD, results, repo)
    rows = stored(LEADERBOARD, results)
    for position, column, value in mutations:
        rows[position][column] = value
    touched = {position for position, _, _ in mutations}
    try:
        content = write(pa.Table.from_pylist([dict.fromkeys(LEADERBOARD.schema.names) | row for row in rows]))
    except (pa.ArrowException, OverflowError, ValueError):
        return  # not a table that anyone could write
    upload(api, LEADERBOARD, repo, content)
    publish(api, LEADERBOARD, [run(seed=9)], repo)
    found = read(api, LEADERBOARD, repo)
    assert {run(seed=9).key, *(results[i].key for i in range(3) if i not in touched)} <= set(found["key"])
    true = LEADERBOARD.rows(results).set_index("key")
    for i in set(range(3)) - touched:
        assert found.set_index("key").loc[results[i].key].equals(true.loc[results[i].key])
    assert publish(api, LEADERBOARD, [run(seed=9)], repo) is None, "a second time there is nothing to do"


def test_a_benchmark_says_what_was_quarantined_and_does_not_fail(api, tmp_path):
    publish(api, LEADERBOARD, [run(value=0.5)], "alice/hubinit-leaderboard")
    publisher = Publisher(ResultStore(tmp_path), "alice", {}, private=True)
    publisher.finish([run(value=0.9)], cached=set())
    assert publisher.failures == []
    assert "1 row is quarantined" in publisher.notes[0]
