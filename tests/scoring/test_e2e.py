"""Outputs of the E2E task: grouped references, corpus scores with bootstrap errors, and what is missing without Java."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from hubinit import tasks
from hubinit.cli import main
from hubinit.errors import HubinitError
from hubinit.scoring import captions, score_outputs
from hubinit.scoring.captions import JavaError
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import hash_of
from hubinit.specs import DataSpec, EvalSpec
from tests.texts import language_model, save_dataset, tokenizer

DOCUMENTS = {
    "a": {"references": ["The Eagle is a cheap pub near Burger King.", "Near Burger King is a cheap pub, The Eagle."]},
    "b": {"references": ["Cocum is a coffee shop in the city centre."]},
}
OUTPUTS = ["The Eagle is a cheap pub\nnear Burger King.", "Cocum is a pub in the city centre."]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(texts: list[str]) -> list[str]:
        raise JavaError(captions.NEEDED)

    monkeypatch.setattr(captions, "treebank", refuse)


@pytest.fixture
def java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "treebank", lambda texts: [text.lower() for text in texts])
    monkeypatch.setattr(captions, "rouge_l", lambda texts, references: [0.5, 0.7][: len(texts)])
    monkeypatch.setattr(captions, "cider", lambda texts, references: [1.0, 3.0][: len(texts)])
    monkeypatch.setattr(
        captions, "meteor", lambda texts, references, weights: {"meteor": weights @ [0.2, 0.4][: len(texts)]}
    )


def test_without_java_bleu_and_nist_stay_and_the_others_say_what_they_need(no_java: None) -> None:
    scored = score_outputs("e2e", OUTPUTS, DOCUMENTS)
    assert [score.metric for score in scored.scores] == ["bleu", "nist", "nist,python"]
    assert [note.split(":")[:2] for note in scored.notes] == [
        [n, " needs Java"] for n in ("METEOR", "ROUGE-L", "CIDEr")
    ]


def test_five_metrics_of_the_set_and_of_each_item(java: None) -> None:
    scored = score_outputs("e2e", OUTPUTS, DOCUMENTS)
    by_name = {score.metric: score for score in scored.scores}
    assert list(by_name) == ["bleu", "nist", "nist,python", "meteor", "rouge_l", "cider"]
    assert [score.metric for score in scored.scores if score.primary] == ["bleu"]
    assert 0.5 < by_name["bleu"].value < 1 and by_name["bleu"].n == 2
    assert by_name["cider"].value == 2.0 and by_name["cider"].stderr == pytest.approx(1.0)
    assert by_name["meteor"].stderr == pytest.approx(0.1 * 2**0.5, rel=0.1)  # of a sum over 2 draws of 0.2 or 0.4
    assert all(score.stderr for score in scored.scores)
    assert scored.items[0].values["bleu"] == pytest.approx(1.0)
    assert scored.items[1].values == pytest.approx(
        scored.items[1].values | {"rouge_l": 0.7, "cider": 3.0, "meteor": 0.4}
    )
    assert scored.notes == ()


def test_one_output_has_no_error(java: None) -> None:
    alone = score_outputs("e2e", OUTPUTS[:1], {"a": DOCUMENTS["a"]})
    assert [score.stderr for score in alone.scores[:4]] == [None] * 4


def test_a_meteor_that_fails_costs_only_itself(java: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise JavaError("the program failed or took too long: no answer")

    monkeypatch.setattr(captions, "meteor", fail)
    scored = score_outputs("e2e", OUTPUTS, DOCUMENTS)
    assert {"rouge_l", "cider"} <= {score.metric for score in scored.scores}
    assert scored.notes == ("METEOR: the program failed or took too long: no answer.",)


def test_a_model_s_texts_are_scored_by_meaning(no_java: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"meaning_representation": f"name[{name}]", "human_reference": f"{name} is {kind}."}
        for name, kind in (("Aromi", "a pub"), ("Aromi", "cheap"), ("Cotto", "a pub"))
    ]
    split = Dataset.from_list(rows)
    folder = save_dataset(tmp_path / f"e2e-{tmp_path.name}", "default", {"train": split, "test": split})
    monkeypatch.setitem(tasks.TASKS, "e2e", replace(tasks.get("e2e"), dataset=str(folder)))
    scored = evaluate_one(language_model(), tokenizer(), EvalSpec(task="e2e"), batch_size=2)
    assert [score.n for score in scored.scores] == [2, 2, 2]
    assert scored.items[0].prompt_hash == hash_of("name : Aromi ||")
    assert len(scored.notes) == 3
    training, _ = tasks.training_examples(DataSpec(tasks=("e2e",), validation_samples=1), seed=0)
    assert len(training) == 2


@pytest.mark.parametrize("document", [{}, {"references": []}, {"references": "a b"}, {"references": [1]}])
def test_a_document_without_references_is_one_sentence(document: dict[str, object]) -> None:
    with pytest.raises(HubinitError, match="Question '0' is not one of 'e2e': it needs `references`, a list of texts"):
        score_outputs("e2e", ["x"], {"0": document})


def test_the_command_scores_recorded_texts(
    no_java: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"output": text, "document": one} for text, one in zip(OUTPUTS, DOCUMENTS.values(), strict=True)]
    path = tmp_path / "outputs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr("sys.argv", ["hubinit", "eval", "--tasks", "e2e", "--outputs", str(path), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code in (0, None)
    *scores, partial = json.loads(printed.out)
    assert [score["metric"] for score in scores] == ["bleu", "nist", "nist,python"]
    assert (partial["task"], partial["status"], "needs Java" in partial["reason"]) == ("e2e", "partial", True)
    assert "METEOR: needs Java" in printed.err
