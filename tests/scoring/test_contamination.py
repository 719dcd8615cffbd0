"""Test items that occur in the training data: found whatever their form, and left out of a second score."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hubinit import tasks
from hubinit.cli import scoring as command
from hubinit.records import Item
from hubinit.scoring.contamination import mark_seen
from hubinit.scoring.outputs import questions_of
from hubinit.scoring.spec import Scored, mean_scores
from hubinit.scoring.target import Target
from hubinit.specs import DataSpec, EvalSpec, ModelSpec
from hubinit.tasks.questions import key_of
from tests.texts import SHARED, save_dataset


def answered(task: str, ids: Mapping[str, object], right: int) -> Scored:
    """The first `right` questions right, the others wrong."""
    items = [Item(id=name, values={"acc": float(place < right)}) for place, name in enumerate(ids)]
    return Scored(mean_scores(items, tasks.get(task), EvalSpec(task=task), primary="acc"), items)


def row(question: str, answer: str) -> dict[str, object]:
    return {
        "id": "",
        "question_stem": question,
        "choices": {"text": ["none of these", answer], "label": ["A", "B"]},
        "answerKey": "B",
    }


TRAIN = [row("A Plant needs:", "the sun"), row("Frogs eat", "flies"), row("Ice is", "cold")]
TEST = [
    row("a plant  needs", "The Sun."),  # the same words
    row("Frogs eat", "grass"),  # with another answer
    row("Ice", "is cold"),  # the same words, cut elsewhere
    row("Snow is", "cold"),
]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": Dataset.from_list(TRAIN), "test": Dataset.from_list(TEST)}
    folder = save_dataset(tmp_path / f"toy-{tmp_path.name}", "main", splits)
    for name in ("openbookqa", "openbookqa-gen"):
        monkeypatch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset=str(folder)))


@pytest.mark.parametrize("form", ["openbookqa", "openbookqa-gen"])  # how the run asks in training does not matter
def test_a_question_with_its_answer_is_found(toy: None, form: str) -> None:
    evaluation = EvalSpec(task="openbookqa")
    scored = answered("openbookqa", questions_of(tasks.get("openbookqa"), evaluation), right=2)
    marked = mark_seen(scored, evaluation, DataSpec(tasks=(form,)))
    assert [item.seen for item in marked.items] == [True, False, False, False]
    whole, clean = marked.scores
    assert (whole.metric, whole.value, whole.primary, whole.contaminated) == ("acc", 0.5, True, 1)
    assert (clean.metric, clean.value, clean.n, clean.primary) == ("acc,unseen", pytest.approx(1 / 3), 3, False)


def test_without_a_reader_nobody_looks(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "openbookqa", replace(tasks.get("openbookqa"), question=None))
    scored = answered("openbookqa", {"0": None}, right=1)
    assert mark_seen(scored, EvalSpec(task="openbookqa"), DataSpec(tasks=("openbookqa-gen",))) is scored
    assert scored.scores[0].contaminated is None


@pytest.mark.parametrize(
    ("manifest", "asked", "count"),
    [
        ({"tasks": ["openbookqa"]}, (), 1),  # as the adapter says
        ({"tasks": ["openbookqa-gen"], "own": {"sha256": "0"}}, (), None),  # its rows are the user's own
        ({"tasks": ["no such task"]}, (), None),
        (None, (), None),
        (None, ("openbookqa-gen",), 1),  # as the user says
        ({"tasks": ["no such task"]}, ("openbookqa",), 1),
    ],
)
def test_eval_counts_what_an_adapter_was_trained_on(
    manifest: dict[str, Any] | None,
    asked: tuple[str, ...],
    count: int | None,
    toy: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a").mkdir()
    if manifest is not None:
        (tmp_path / "a" / "hubinit.json").write_text(json.dumps({"result": {"spec": {"data": manifest}}}))
    found = Target(str(tmp_path / "a"), ModelSpec(id="m"), adapter=True, engine="transformers")
    monkeypatch.setattr(
        command, "evaluate_one", lambda *_, **__: answered("openbookqa", {str(i): row for i, row in enumerate(TEST)}, 2)
    )
    data = command.training_data(asked) if asked else None
    outcome = command.score_target(
        found, ["openbookqa"], EvalSpec(task=""), 1, data, load=lambda found, wanted: (None, None)
    )
    assert outcome.scores[0].contaminated == count
    assert len(outcome.scores) == (1 if count is None else 2)


def test_recorded_outputs_with_their_documents_are_searched_too(toy: None, tmp_path: Path) -> None:
    lines = [{"output": "answer2", "document": document} for document in TEST]
    (tmp_path / "outputs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = command.training_data(["openbookqa"])
    outcome = command.score_recorded("openbookqa-gen", tmp_path / "outputs.jsonl", EvalSpec(task=""), data, None)
    assert [(score.metric, score.n, score.contaminated) for score in outcome.scores] == [
        ("acc", 4, 1),
        ("acc,unseen", 3, None),
    ]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
@pytest.mark.parametrize(("name", "count"), [("openbookqa", 15), ("arc-easy", 4), ("arc-challenge", 1), ("piqa", 4)])
def test_real_sets_hold_their_own_test_items(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get(name)
    monkeypatch.setitem(tasks.TASKS, name, replace(task, dataset=str(SHARED / task.dataset)))
    evaluation = EvalSpec(task=name)
    documents = questions_of(tasks.get(name), evaluation)
    marked = mark_seen(answered(name, documents, right=100), evaluation, DataSpec(tasks=(name,)))
    assert marked.scores[0].contaminated == count
    assert marked.scores[-1].n == len(documents) - count


def test_a_number_stands_for_words_alone() -> None:
    assert key_of(("What's  UP?", "sky")) == key_of(("what s up", " Sky!"))
    assert key_of(("a b", "c")) != key_of(("a", "b c"))
