"""Filling a store: idempotent, the same commit everywhere, nobody's content overwritten, hostile folders refused."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from hubinit.devhub.seed import SEEDS, fill, seed, seed_folder
from hubinit.devhub.seed.catalog import Content, Seed, build_tables, select
from hubinit.devhub.seed.datasets import Table
from hubinit.devhub.store import Store
from hubinit.errors import HubinitError
from hubinit.models.names import registry
from tests.devhub.wheel_files import build_wheel

TEXT = {"dtype": "string", "_type": "Value"}


@pytest.fixture
def recipe(tmp_path) -> Seed:
    """A tiny dataset in a wheel that is in the cache."""

    def read(archive):
        rows = [{"text": line} for line in archive.read("lines.txt").decode().splitlines()]
        return [Table("small", "train", {"text": TEXT}, rows), Table("small", "test", {"text": TEXT}, rows[:1])]

    return Seed(
        name="lines",
        repo_type="dataset",
        repo_id="org/lines",
        wheel=build_wheel(tmp_path / "cache" / "wheels", {"lines.txt": b"one\ntwo\nthree\n"}),
        license="mit",
        license_note="MIT, as stated in the package.",
        description="Three lines.",
        size=1000,
        build=build_tables(read),
    )


@pytest.fixture
def plant(recipe, monkeypatch, tmp_path):
    """Seed a store (by its number) with recipes instead of the catalog's."""

    def run(store=0, *recipes):
        monkeypatch.setattr(fill, "select", lambda _: list(recipes or (recipe,)))
        return seed(Store(tmp_path / f"hub{store}"), cache=tmp_path / "cache", echo=lambda _: None)

    return run


def test_a_seed_has_its_files_a_card_that_parses_and_its_provenance(plant, recipe, tmp_path):
    (done,) = plant()
    store = Store(tmp_path / "hub0")
    assert (done.state, done.repo_id) == ("new", "org/lines")
    card = RepoCard(store.read("dataset", "org/lines", "README.md").decode())
    assert card.data.license == "mit"
    assert [part["split"] for part in card.data.configs[0]["data_files"]] == ["train", "test"]
    for fact in (recipe.wheel.sha256, "tiny-seed==1.0", "re-packed copy", "MIT, as stated", "| small | train | 3 |"):
        assert fact in card.text
    assert json.loads(store.read("dataset", "org/lines", "hubinit-seed.json"))["sha256"] == recipe.wheel.sha256


def test_load_dataset_reads_what_was_seeded(plant, tmp_path):
    from datasets import load_dataset

    (done,) = plant()
    store = Store(tmp_path / "hub0")
    for path in store.tree_of(done.sha):
        target = tmp_path / "copy" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read("dataset", "org/lines", path))
    loaded = load_dataset(str(tmp_path / "copy"), "small", cache_dir=str(tmp_path / "datasets"))
    assert loaded["train"]["text"][:] == ["one", "two", "three"]
    assert loaded["test"].num_rows == 1


def test_a_second_seeding_touches_no_wheel(plant, recipe, tmp_path):
    (first,) = plant()
    shutil.rmtree(tmp_path / "cache")
    (second,) = plant()
    assert (second.state, second.sha) == ("unchanged", first.sha)


def test_every_machine_gets_the_same_commit(plant):
    assert plant(0)[0].sha == plant(1)[0].sha


def test_a_new_recipe_is_a_further_commit(plant, recipe, tmp_path):
    (first,) = plant()
    (second,) = plant(0, replace(recipe, version=2))
    assert second.state == "new"
    assert Store(tmp_path / "hub0").commit_of(second.sha).parent == first.sha


def test_somebody_elses_content_is_left_alone(plant, tmp_path):
    store = Store(tmp_path / "hub0")
    store.create_repo("dataset", "org/lines")
    sha = store.commit("dataset", "org/lines", {"mine.txt": b"mine"}, message="mine", author="me")
    (done,) = plant()
    assert (done.state, done.sha) == ("kept", sha)


def test_a_repo_whose_seeding_was_killed_before_its_commit_is_completed(plant, tmp_path):
    Store(tmp_path / "hub0").create_repo("dataset", "org/lines")
    assert plant()[0].state == "new"


def test_a_full_disk_in_the_middle_is_one_sentence_and_what_was_finished_stays(plant, recipe, tmp_path):
    def fills_the_disk(_wheel, _scratch):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/model.safetensors")

    with pytest.raises(HubinitError, match=r"disk is full.*/somewhere/model.safetensors"):
        plant(0, recipe, replace(recipe, name="big", repo_id="org/big", build=fills_the_disk))
    store = Store(tmp_path / "hub0")
    assert store.repo_exists("dataset", "org/lines")
    assert not store.repo_exists("dataset", "org/big")
    assert not list((tmp_path / "cache" / "wheels").glob(".scratch-*"))


def test_a_model_seed_is_committed_from_files_on_disk(plant, recipe, tmp_path):
    def build(_wheel, scratch):
        (scratch / "model.safetensors").write_bytes(b"weights")
        return Content(files={"model.safetensors": scratch / "model.safetensors", "config.json": b"{}"})

    plant(0, replace(recipe, repo_type="model", repo_id="org/model", build=build))
    assert Store(tmp_path / "hub0").read("model", "org/model", "model.safetensors") == b"weights"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["arc-easy"], ["arc"]),
        (["boolq"], ["boolq", "boolq-superglue"]),
        (["allenai/ai2_arc", "arc"], ["arc"]),
        (["piqa", "smollm2-135m"], ["smollm2-135m", "piqa"]),
        (["dinov2-s"], ["dinov2-s"]),
        (None, [name for name in SEEDS if name != "dinov2-s"]),  # its licence is unclear
    ],
)
def test_seeds_are_found_by_name_task_and_repository(names, found):
    assert [recipe.name for recipe in select(names)] == found


def test_an_unknown_seed_names_the_nearest():
    with pytest.raises(HubinitError, match="Unknown seed 'ark-easy': did you mean arc-easy"):
        select(["ark-easy"])


def test_the_catalog_is_consistent():
    ids = [recipe.repo_id for recipe in SEEDS.values()]
    assert len(set(ids)) == len(ids)
    for recipe in SEEDS.values():
        assert len(recipe.wheel.sha256) == 64
        assert recipe.wheel.filename.startswith(recipe.wheel.package.replace("-", "_") + "-" + recipe.wheel.version)


def test_a_name_means_the_same_model_as_a_seed_and_as_an_alias():
    aliases = {alias: spec.id for alias, spec in registry().items()}
    models = {recipe.name: recipe.repo_id for recipe in SEEDS.values() if recipe.repo_type == "model"}
    for name, repo_id in models.items():
        assert [alias for alias, known in aliases.items() if known == repo_id] == [name]
    assert not set(aliases) & (set(SEEDS) - set(models)), "a data set and a model have one name"
    from_pypi = {alias for alias, known in aliases.items() if known.startswith("hubinit/")}
    assert from_pypi == set(models), "an alias names a model that no seed makes"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one model and one dataset."""
    root = tmp_path / "from"
    for name in (
        "org/model/config.json",
        "org/model/model.safetensors",
        "org/data/default/train.parquet",
        "org/data/.git/x",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_a_folder_is_seeded_by_its_content(folder, tmp_path):
    store = Store(tmp_path / "hub")
    done = seed_folder(store, folder, echo=lambda _: None)
    assert [(each.repo_type, each.repo_id, each.state) for each in done] == [
        ("dataset", "org/data", "new"),
        ("model", "org/model", "new"),
    ]
    assert set(store.tree_of(done[0].sha)) == {".gitattributes", "default/train.parquet"}
    assert store.read("model", "org/model", "config.json") == b"org/model/config.json"


def test_seeding_a_folder_again_adds_only_what_changed(folder, tmp_path):
    store = Store(tmp_path / "hub")
    seed_folder(store, folder, echo=lambda _: None)
    (folder / "org/data/README.md").write_text("# new")
    assert [each.state for each in seed_folder(store, folder, echo=lambda _: None)] == ["new", "unchanged"]


@pytest.mark.parametrize("name", ["or g/data", "org/-data", "org/a..b", "api/data", "org/tree", "org/data.git"])
def test_a_name_that_no_hub_has_is_refused_before_anything_is_written(folder, tmp_path, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "file").write_text("x")
    store = Store(tmp_path / "hub")
    with pytest.raises(HubinitError, match=r"Cannot seed from .*not a valid"):
        seed_folder(store, folder, echo=lambda _: None)
    assert not list(store.repos("dataset"))


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "private").write_text("private")
    (folder / "org/data/link").symlink_to(tmp_path / "private")
    with pytest.raises(HubinitError, match="link is a link that leads out"):
        seed_folder(Store(tmp_path / "hub"), folder, echo=lambda _: None)


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: root.mkdir(), lambda root: (root / "org/name").mkdir(parents=True)]
)
def test_a_folder_without_repositories_is_one_sentence(tmp_path, make):
    make(tmp_path / "from")
    with pytest.raises(HubinitError, match=r"is not a folder|holds no repositories"):
        seed_folder(Store(tmp_path / "hub"), tmp_path / "from", echo=lambda _: None)
