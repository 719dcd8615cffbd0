"""The catalogue: rows of many publishers, each once, and a card that no name can break."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hubinit.errors import HubError
from hubinit.hub.cards import catalogue_card
from hubinit.hub.catalogue import CATALOGUE_FILE, CatalogueRow, publish_catalogue, read_catalogue
from hubinit.hub.manifest import Manifest
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
        list(pool.map(lambda one: publish_catalogue(api, [one], "alice/many-catalogue"), rows))
    assert read_catalogue(api, "alice/many-catalogue") == rows
    assert publish_catalogue(api, rows, "alice/many-catalogue").commit is None


def test_it_loads_as_its_card_says(api):
    from datasets import load_dataset

    publish_catalogue(api, [row("alice/one"), row("alice/two", task="arc-easy")], "alice/read-catalogue")
    table = load_dataset("alice/read-catalogue", "adapters", split="train").to_pandas()
    assert list(table["repo"]) == ["alice/one", "alice/two"]


def test_another_data_set_is_not_overwritten(api):
    api.create_repo("alice/other-data", repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=b"no", path_in_repo=CATALOGUE_FILE, repo_id="alice/other-data", repo_type="dataset")
    with pytest.raises(HubError, match="is not a catalogue"):
        publish_catalogue(api, [row("alice/one")], "alice/other-data")


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
    monkeypatch.setattr(matrix, "deliver_catalogue", full)
    said: list[str] = []
    planned = [PlannedStart(run().spec, "arc-easy")]
    outcome = matrix.publish_matrix(planned, matrix.Publishing("alice", True, "x", lambda *_: None, said.append))
    assert outcome.published == ["alice/one"]
    assert outcome.failures == ["Catalogue: [Errno 28] No space left on device. The same command adds the rows later."]
    assert said[-1] == outcome.failures[0]
