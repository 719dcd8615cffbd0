"""The graders as modules of `evaluate`: loaded from the installed package, combined with that library's own."""

from pathlib import Path

import evaluate
import pytest

from hubinit.errors import HubinitError
from hubinit.scoring import metric, score_outputs, task_metric

ROWS = [{"question": "q", "answer": True}, {"question": "r", "answer": False}]
LENGTH = """
import datasets
import evaluate


class Length(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"length": sum(map(len, predictions))}
"""
TEXTS = ["The Eagle is a cheap pub .", "Cocum is a pub ."]
REFERENCES = [["The Eagle is a pub.", "A cheap pub is The Eagle."], ["Cocum is a cheap pub."]]


@pytest.fixture(autouse=True)
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR and the others are left out, with a warning, whatever this machine has."""
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", None)


def test_it_gives_what_recorded_outputs_are_scored_with(tmp_path: Path) -> None:
    rules = metric("boolq-gen")
    assert isinstance(rules, evaluate.EvaluationModule)
    assert rules.compute(predictions=["it is true", "true"], references=ROWS) == {"acc": 0.5}
    rules.add(prediction="false", reference=ROWS[1])
    rules.add_batch(predictions=[["false", "true"], "none"], references=[ROWS[1], ROWS[0]])
    assert rules.compute() == {"acc": pytest.approx(2 / 3)}


def test_evaluate_loads_it_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *address: pytest.fail("it called someone"))
    loaded = evaluate.load(task_metric.__file__, "e2e")
    with pytest.warns(UserWarning, match="METEOR: needs the package"):
        found = loaded.compute(predictions=TEXTS, references=REFERENCES)
    documents = {str(i): {"references": several} for i, several in enumerate(REFERENCES)}
    assert found == {score.metric: score.value for score in score_outputs("e2e", TEXTS, documents).scores}


@pytest.mark.filterwarnings("ignore:.*needs the package")
def test_it_combines_with_the_library_s_own(tmp_path: Path) -> None:
    (tmp_path / "length.py").write_text(LENGTH)
    both = evaluate.combine([metric("e2e"), evaluate.load(str(tmp_path / "length.py"))])
    at_once = both.compute(predictions=TEXTS, references=REFERENCES)
    assert at_once["length"] == sum(map(len, TEXTS)) and 0 < at_once["bleu"] < 1
    for text, several in zip(TEXTS, REFERENCES, strict=True):
        both.add(prediction=text, reference=several)
    assert both.compute() == at_once
    twice = evaluate.combine([metric("boolq-gen"), metric("piqa-gen")])
    rows = [ROWS[0] | {"goal": "", "sol1": "", "sol2": "", "label": 0}]
    assert twice.compute(predictions=["true"], references=rows) == {"boolq-gen_acc": 1.0, "piqa-gen_acc": 0.0}


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(HubinitError, match="Unknown task 'nothing'"):
        metric("nothing")
    with pytest.raises(HubinitError, match="scored by log-likelihoods"):
        metric("arc-easy")
    with pytest.raises(HubinitError, match="Name the task as the configuration"):
        evaluate.load(task_metric.__file__)
    with pytest.raises(HubinitError, match="1 predictions for 2 references"):
        metric("boolq-gen").compute(predictions=["true"], references=ROWS)
    with pytest.raises(HubinitError, match="cannot be scored: Object of type set"):
        metric("boolq-gen").compute(predictions=[{"a"}], references=ROWS[:1])
    with pytest.raises(HubinitError, match="A reference is a row, a text or a list of texts, not 7"):
        metric("boolq-gen").compute(predictions=["true"], references=[7])
