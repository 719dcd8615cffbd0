"""Data under the name of an original are held to what it is known to hold."""

import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubinit import tasks
from hubinit.devhub.seed import datasets
from hubinit.devhub.seed.catalog import SEEDS
from hubinit.devhub.seed.wheels import Wheel
from hubinit.errors import HubError
from hubinit.specs import DataSpec
from hubinit.tasks import facts, harness
from hubinit.tasks.facts import ALLOW_DRIFT, Facts, check_split, known_rows, training_rows
from tests.texts import SHARED, save_arc

COLUMNS = ["id", "question", "choices", "answerKey"]
SUBSETS = {  # of the development copies, see their notes
    *(("aps/super_glue", "train"), ("Rowan/hellaswag", "train"), ("zalando-datasets/fashion_mnist", "train")),
    ("zalando-datasets/fashion_mnist", "test"),
}


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_DRIFT)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (2376, COLUMNS, None),
        (2375, COLUMNS, "it has 2375 rows instead of 2376"),
        (2376, COLUMNS[1:], "it has no column id"),
        (2376, [*COLUMNS, "fact1"], "its column fact1 is not known"),
        (
            0,
            ["text"],
            "0 rows instead of 2376, it has no column id or question or choices or answerKey, its column text",
        ),
    ],
)
def test_what_differs_is_said(strict: None, rows: int, columns: list[str], message: str | None) -> None:
    task = tasks.get("arc-easy")
    if message is None:
        return check_split(task, "test", rows, columns)
    with pytest.raises(HubError, match=message) as caught:
        check_split(task, "test", rows, columns)
    assert "test of allenai/ai2_arc (ARC-Easy)" in str(caught.value)
    assert "--allow-drift" in str(caught.value)


def test_drift_that_is_allowed_is_a_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_DRIFT, "1")
    with caplog.at_level(logging.WARNING):
        check_split(tasks.get("arc-easy"), "test", 12, COLUMNS)
    assert "12 rows instead of 2376" in caplog.text


def test_other_data_sets_and_local_folders_are_not_checked(strict: None, tmp_path: Path) -> None:
    check_split(replace(tasks.get("arc-easy"), dataset="my/own"), "test", 1, ["a"])
    check_split(replace(tasks.get("arc-easy"), config="ARC-Other"), "test", 1, COLUMNS)  # its rows are not known
    folder = save_arc(tmp_path / "facts-arc")
    assert harness.load(replace(tasks.get("arc-easy"), dataset=str(folder)), None)


def test_data_from_a_hub_are_refused_where_they_are_loaded(
    strict: None, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring needs the test split only; training needs the training split as well."""
    api.create_repo("alice/drifted", repo_type="dataset")
    api.upload_folder(
        repo_id="alice/drifted", repo_type="dataset", folder_path=save_arc(tmp_path / "d", train=5, test=4)
    )
    for name in ("arc-easy", "arc-easy-gen"):
        monkeypatch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset="alice/drifted"))
    known = {"alice/drifted": Facts(COLUMNS, {"ARC-Easy": {"train": 12, "test": 4}})}
    monkeypatch.setattr(facts, "registry", lambda: known)
    assert len(harness.load(tasks.get("arc-easy"), tasks.pin("arc-easy")).eval_docs) == 4
    for name in ("arc-easy", "arc-easy-gen"):
        with pytest.raises(HubError, match=r"train of alice/drifted .* 5 rows instead of 12"):
            tasks.training_examples(DataSpec(tasks=(name,), revisions=(tasks.pin(name),)), 0)


def test_the_training_rows_of_a_mixture_of_configurations_are_added_up() -> None:
    assert training_rows(tasks.get("winogrande-gen")) == 63_238  # of commonsense_170k
    assert training_rows(tasks.get("arc-easy")) == 2251
    assert training_rows(tasks.get("cars")) is None
    assert known_rows(tasks.get("openbookqa"), "test") == 500


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_the_facts_are_those_of_the_real_copies() -> None:
    manifest = json.loads((SHARED.parent / "manifest.json").read_text())
    copies = {(one["repo"], one["config"], one["split"]): one for one in manifest}
    compared = 0
    for dataset, known in facts.registry().items():
        for config, splits in known.rows.items():
            for split, rows in splits.items():
                if (copy := copies.get((dataset, config, split))) and (dataset, split) not in SUBSETS:
                    assert (copy["rows"], sorted(copy["columns"])) == (rows, sorted(known.columns)), (dataset, split)
                    compared += 1
    assert compared > 25


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["arc", "openbookqa", "piqa", "siqa", "winogrande", "boolq", "boolq_superglue", "hellaswag"]
)
def test_what_is_seeded_is_what_the_facts_say(name: str, real_wheel: Callable[[Wheel], Path]) -> None:
    """So `--hub embedded` needs no --allow-drift."""
    seed = next(seed for seed in SEEDS.values() if seed.repo_id in datasets.__dict__[name].__doc__)
    with zipfile.ZipFile(real_wheel(seed.wheel)) as wheel:
        tables = datasets.__dict__[name](wheel)
    known = facts.registry()[seed.repo_id]
    for table in tables:
        assert (len(table.rows), set(table.features)) == (known.rows[table.config][table.split], set(known.columns))
