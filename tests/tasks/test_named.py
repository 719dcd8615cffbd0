from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubError, HubinitError
from hubinit.specs import DataSpec, EvalSpec, ModelSpec, Protocol
from hubinit.tasks import named
from tests import definitions
from tests.texts import save_arc


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "definitions"
    folder.mkdir()
    definitions.use(folder, monkeypatch, hub=f"alice/{tmp_path.name}")
    yield
    named.find.cache_clear()
    named.load.cache_clear()


@pytest.mark.slow
def test_the_installed_lm_eval_has_its_well_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    named.find.cache_clear()
    assert tasks.members("lm-eval:ai2_arc") == ("lm-eval:arc_challenge", "lm-eval:arc_easy")
    assert tasks.members("lm-eval:mmlu") == ("lm-eval:mmlu",)
    mmlu, algebra, bbh = (tasks.get(f"lm-eval:{name}") for name in ("mmlu", "mmlu_abstract_algebra", "bbh"))
    assert mmlu.dataset == algebra.dataset == "cais/mmlu"
    assert (algebra.config, algebra.test_split, algebra.kind) == ("abstract_algebra", "test", "language")
    assert (tasks.get("lm-eval:gsm8k").shots, bbh.shots, mmlu.shots) == (5, 3, 0)
    assert len(named.leaves(named.entry_of("lm-eval:mmlu").cfg)) == 57
    for name in ("humaneval", "mmmu_val"):
        with pytest.raises(HubinitError, match=f"'lm-eval:{name}'"):
            tasks.get(f"lm-eval:{name}")


def test_names_tags_and_groups() -> None:
    assert tasks.members("lm-eval:small") == ("lm-eval:small",)
    assert tasks.members("lm-eval:both") == ("lm-eval:large", "lm-eval:small")
    assert tasks.members("lm-eval:weighted") == ("lm-eval:weighted",)
    assert tasks.members("lm-eval:loose") == ("lm-eval:weighted", "lm-eval:large", "lm-eval:small")
    with pytest.raises(HubinitError, match="no score for the group 'lm-eval:inside' as a whole"):
        tasks.members("lm-eval:inside")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(HubinitError, match=r"has no task 'smal': did you mean lm-eval:small"):
        tasks.get("lm-eval:smal")
    with pytest.raises(HubinitError, match="`lm-eval ls tasks` lists them"):
        tasks.get("lm-eval:zzzzzzzz")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unsafe", "runs programs that the model writes"),
        ("seen", "asks about images"),
        ("lacking", "needs the package 'surely_not_installed', which is not installed"),
        ("foreign", "computes its score with code from the Hub"),
    ],
)
def test_what_cannot_be_scored_here_is_one_sentence(name: str, reason: str) -> None:
    with pytest.raises(HubinitError, match=reason) as caught:
        named.load(tasks.get(f"lm-eval:{name}"), None)
    assert len(str(caught.value).splitlines()) == 1


def test_it_is_for_language_models() -> None:
    tasks.check_kind("lm-eval:small", ModelSpec(id="a/b"))
    with pytest.raises(HubinitError, match="a language task"):
        tasks.check_kind("lm-eval:small", ModelSpec(id="a/b", kind="vision"))


def test_training_takes_the_training_documents() -> None:
    examples, held_out = tasks.training_examples(DataSpec(tasks=("lm-eval:small",), validation_samples=1), 0)
    assert (len(examples), len(held_out)) == (4, 1)
    assert Example("Question: What is the color of sky 100?\nAnswer:", " red bird") in [*examples, *held_out]
    for name, reason in (
        ("weighted", "has no training data: train on another one"),
        ("rolling", "scores whole texts"),
        ("trained_on", "is scored on its training split"),
    ):
        with pytest.raises(HubinitError, match=reason):
            tasks.training_examples(DataSpec(tasks=(f"lm-eval:{name}",)), 0)


def test_shots_are_those_asked_for_or_the_definitions_own() -> None:
    assert tasks.shots("lm-eval:free", Protocol()) == tasks.shots("lm-eval:free", EvalSpec(task="")) == 2
    assert tasks.shots("lm-eval:free", Protocol(shots=0)) == 0
    assert tasks.shots("arc-easy", Protocol()) == 0
    with pytest.raises(HubinitError, match="fixes the prompt of 'lm-eval:fixed'"):
        named.check_shots(tasks.get("lm-eval:fixed"), 3)
    with pytest.raises(HubinitError, match=r"different numbers of solved examples \(0, 2\)"):
        named.check_shots(tasks.get("lm-eval:uneven"), 0)


def test_data_come_from_the_hub_at_the_pinned_commit(api: HfApi, tmp_path: Path) -> None:
    repo = f"alice/{tmp_path.name}"
    with pytest.raises(HubError, match=tmp_path.name):
        tasks.pin("lm-eval:on_the_hub")
    api.create_repo(repo, repo_type="dataset")
    shas = []
    for rows in (5, 7):
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=save_arc(tmp_path / str(rows), train=rows))
        shas.append(tasks.pin("lm-eval:on_the_hub"))
    for sha, rows in zip(shas, (5, 7), strict=True):
        assert len(named.training_split(tasks.get("lm-eval:on_the_hub"), sha)) == rows
    assert tasks.pin("lm-eval:weighted") is None  # files from elsewhere
