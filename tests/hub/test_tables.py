"""Leaderboard and catalogue: rows of many publishers, each once, also of older versions; a card that no name can break."""

import io
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubinit.errors import HubError
from hubinit.hub.cards import catalogue_card
from hubinit.hub.catalogue import CatalogueRow, catalogue_row
from hubinit.hub.tables import CATALOGUE, LEADERBOARD, parquet, publish, read
from hubinit.leaderboard.ranking import rank
from hubinit.records import Manifest
from tests.hub.builders import run


def row(repo, **changes):
    values = {
        "repo": repo,
        "model": "alice/tiny-llama",
        "revision": "a" * 40,
        "method": "filet",
        "options": "{}",
        "rank": 2,
        "alpha": 4,
        "task": None,
        "calibration_samples": 16,
        "bytes": 1000,
        "start": "keep",
        "anchor": True,
        "seconds": 1.0,
        "created": "2026-01-01",
    }
    return CatalogueRow(**{**values, **changes})


def test_concurrent_publishers_lose_no_row(api):
    rows = [row(f"alice/start-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: publish(api, CATALOGUE, [one], "alice/many-catalogue"), rows))
    assert read(api, CATALOGUE, "alice/many-catalogue").equals(CATALOGUE.rows(rows))
    assert publish(api, CATALOGUE, rows, "alice/many-catalogue") is None


def test_it_loads_as_its_card_says(api):
    from datasets import load_dataset

    publish(api, CATALOGUE, [row("alice/one"), row("alice/two", task="arc-easy")], "alice/read-catalogue")
    table = load_dataset("alice/read-catalogue", "adapters", split="train").to_pandas()
    assert list(table["repo"]) == ["alice/one", "alice/two"]


def test_another_data_set_is_not_overwritten(api):
    api.create_repo("alice/other-data", repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=b"no", path_in_repo=CATALOGUE.file, repo_id="alice/other-data", repo_type="dataset")
    with pytest.raises(HubError, match="is not a catalogue"):
        publish(api, CATALOGUE, [row("alice/one")], "alice/other-data")


def test_hostile_names_stay_in_their_cell():
    hostile = "x | y\n---\n<script>"
    card = catalogue_card("alice/c", [row("alice/one", model=hostile, task=hostile).model_dump()], path="p")
    assert "<script>" not in card
    (line,) = (line for line in card.splitlines() if "alice/one" in line)
    assert line.replace("\\|", "").count("|") == 10


def test_a_catalogue_that_cannot_be_written_does_not_lose_what_is_published(monkeypatch):
    from hubinit.inits import matrix
    from hubinit.inits.plan import PlannedStart

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    made = Manifest(kind="initialised", result=run(), files={})
    monkeypatch.setattr(matrix, "read_start", lambda *_: made)
    monkeypatch.setattr(matrix, "publish_start", lambda *_, **__: "Published")
    monkeypatch.setattr(matrix, "repo_of", lambda *_: "alice/one")
    monkeypatch.setattr(matrix, "deliver_rows", full)
    said: list[str] = []
    planned = [PlannedStart(run().spec, "arc-easy")]
    outcome = matrix.publish_matrix(planned, matrix.Publishing("alice", True, "x", lambda *_: None, said.append))
    assert outcome.published == ["alice/one"]
    assert outcome.failures == ["Catalogue: [Errno 28] No space left on device. The same command adds the rows later."]
    assert said[-1] == outcome.failures[0]


@pytest.mark.parametrize(
    ("table", "items"), [(CATALOGUE, [row("a/b"), row("a/a")]), (LEADERBOARD, [run(), run("none")])]
)
def test_equal_rows_give_equal_bytes_whoever_came_first(table, items):
    empty = table.rows([])
    one = table.merge(table.merge(empty, table.rows(items[:1])), table.rows(items[1:]))
    other = table.merge(table.merge(empty, table.rows(items[1:])), table.rows(items[:1]))
    assert parquet(table, one) == parquet(table, other)


def test_rows_of_version_0_1_are_read_and_ranked_with_new_ones(api):
    new = LEADERBOARD.rows([run("filet"), run("none")])
    old = pa.Table.from_pandas(new.drop(columns=["dtype", "unadapted"]), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(old, buffer)
    api.create_repo("alice/old-board", repo_type="dataset", exist_ok=True)
    api.upload_file(
        path_or_fileobj=buffer.getvalue(), path_in_repo=LEADERBOARD.file, repo_id="alice/old-board", repo_type="dataset"
    )
    publish(api, LEADERBOARD, [run("pissa", value=0.7)], "alice/old-board")
    merged = read(api, LEADERBOARD, "alice/old-board")
    assert sorted(rank(merged)["method"]) == ["filet", "none", "pissa"]


def test_a_table_of_something_else_is_not_overwritten(api):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["mine"]}), buffer)
    api.create_repo("alice/texts", repo_type="dataset", exist_ok=True)
    for table, item in ((LEADERBOARD, run()), (CATALOGUE, row("alice/one"))):
        api.upload_file(
            path_or_fileobj=buffer.getvalue(), path_in_repo=table.file, repo_id="alice/texts", repo_type="dataset"
        )
        with pytest.raises(HubError, match=f"is not a {table.name} of this version"):
            publish(api, table, [item], "alice/texts")


def test_the_catalogue_states_the_calibration_examples_there_were():
    result = run().model_copy(update={"calibration_examples": 12})
    made = catalogue_row(Manifest(kind="initialised", result=result, files={}), "alice/x", "keep")
    assert (made.calibration_samples, result.spec.calibration.samples) == (12, 16)
