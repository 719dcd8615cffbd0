"""The average of a suite with its own error, and what `eval` prints of it."""

import json
import random
import statistics

import pytest

from hubinit import tasks
from hubinit.cli import scoring as command
from hubinit.errors import HubinitError
from hubinit.records import Item, Score
from hubinit.scoring.spec import Scored, average, mean_scores
from hubinit.scoring.target import Target
from hubinit.specs import EvalSpec, ModelSpec

MEMBERS = tasks.members("commonsense")


def scores_of(task: str, right: int, n: int) -> list[Score]:
    items = [Item(id=str(index), values={"acc": float(index < right)}) for index in range(n)]
    return mean_scores(items, tasks.get(task), EvalSpec(task=task), primary="acc")


def test_the_error_is_that_of_a_mean_of_independent_means() -> None:
    scores = [score for place, name in enumerate(MEMBERS) for score in scores_of(name, 20 + 5 * place, 100 + place)]
    found = average("commonsense", MEMBERS, scores)
    assert found is not None
    assert found.value == pytest.approx(statistics.fmean(score.value for score in scores))
    draw = random.Random(0)

    def again() -> float:  # the oracle: the same eight sets drawn anew
        means = [sum(draw.random() < score.value for _ in range(score.n)) / score.n for score in scores]
        return statistics.fmean(means)

    assert found.stderr == pytest.approx(statistics.stdev(again() for _ in range(2000)), rel=0.06)


def test_a_missing_task_or_error_is_not_guessed() -> None:
    scores = [score for name in MEMBERS for score in scores_of(name, 1, 2)]
    assert average("commonsense", MEMBERS, scores[:-1]) is None
    single = [*scores[:-1], *scores_of(MEMBERS[-1], 1, 1)]
    found = average("commonsense", MEMBERS, single)
    assert found is not None
    assert found.stderr is None


@pytest.mark.parametrize("broken", [None, "piqa"])
def test_eval_prints_it_or_says_why_not(
    broken: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def score_one(model: object, processor: object, evaluation: EvalSpec, **rest: object) -> Scored:
        if evaluation.task == broken:
            raise HubinitError("There is no such data set.")
        return Scored(scores_of(evaluation.task, 1, 4), [])

    found = Target("m", ModelSpec(id="m"), adapter=False, engine="transformers")
    monkeypatch.setattr(command, "find_target", lambda *arguments: found)
    monkeypatch.setattr(command, "load_found", lambda *arguments: (None, None))
    monkeypatch.setattr(command, "evaluate_one", score_one)
    monkeypatch.setattr(tasks, "pin", lambda name: None)
    for as_json in (True, False):
        failed = command.run_eval(
            ("m",),
            ["commonsense"],
            EvalSpec(task=""),
            outputs=None,
            batch_size=1,
            dtype="auto",
            out=None,
            as_json=as_json,
        )
        printed = capsys.readouterr()
        assert failed == (broken is not None)
        if as_json:
            printed_rows = json.loads(printed.out)
            rows = [row for row in printed_rows if row.get("metric") == "mean"]
            failed_rows = [(row["task"], row["reason"]) for row in printed_rows if row.get("status") == "failed"]
            assert failed_rows == ([(broken, "There is no such data set.")] if broken else [])
            assert [(row["task"], row["value"], row["n"]) for row in rows] == (
                [] if broken else [("commonsense", 0.25, 8)]
            )
        assert ("No average of commonsense" in printed.err) is (broken is not None)
        assert ("There is no such data set" in printed.err) is (broken is not None)
        assert broken or as_json or "8 tasks" in printed.out
