import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from hubinit.errors import HubinitError
from hubinit.scoring import lm_eval_named, score_outputs
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.spec import Scored
from hubinit.specs import EvalSpec
from hubinit.tasks import named
from tests import definitions
from tests.texts import language_model, tokenizer


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("definitions")
    with pytest.MonkeyPatch.context() as patch:
        definitions.use(folder, patch)
        patch.setattr(lm_eval_named, "BOOTSTRAP", 20)
        yield folder
    named.find.cache_clear()
    named.load.cache_clear()


def score(name: str, **settings: int) -> Scored:
    evaluation = EvalSpec(task=f"lm-eval:{name}", **settings)
    return evaluate_one(language_model(), tokenizer(), evaluation, batch_size=4)


def test_a_task_has_lm_evals_scores_and_its_items() -> None:
    scored = score("large")
    first, second = scored.scores
    assert [(one.metric, one.primary, one.n) for one in scored.scores] == [("acc", True, 7), ("acc_norm", False, 7)]
    values = [item.values["acc"] for item in scored.items]
    assert [item.id for item in scored.items] == [str(number) for number in range(7)]
    assert first.value == pytest.approx(sum(values) / 7)
    assert first.stderr == pytest.approx(math.sqrt(sum((value - first.value) ** 2 for value in values) / 6 / 7))
    assert (first.task, first.invalid_rate, second.invalid_rate) == ("lm-eval:large", None, None)
    assert all(len(item.log_likelihoods) == 3 for item in scored.items)


def test_a_group_is_weighted_as_its_definition_says() -> None:
    small, large = score("small").scores[0], score("large").scores[0]
    assert small.value != large.value
    for name, value in (
        ("weighted", (3 * small.value + 7 * large.value) / 10),
        ("plain", (small.value + large.value) / 2),
    ):
        scored = score(name)
        assert [one.metric for one in scored.scores if one.primary] == ["acc"]
        assert (scored.scores[0].primary, scored.scores[0].n) == (True, 10)
        assert scored.scores[0].value == pytest.approx(value)
        assert scored.scores[0].stderr is not None
        parts = {one.metric: one for one in scored.scores[1:]}
        assert set(parts) == {"small/acc", "small/acc_norm", "large/acc", "large/acc_norm"}
        assert (parts["small/acc"].value, parts["large/acc"].n) == (small.value, 7)
        assert [item.id for item in scored.items[:4]] == ["small/0", "small/1", "small/2", "large/0"]
        assert {one.task for one in scored.scores} == {f"lm-eval:{name}"}


def test_a_group_in_a_group_has_its_score_too() -> None:
    metrics = [one.metric for one in score("nested", limit=2).scores]
    assert metrics[0] == "acc"
    assert {"weighted/acc", "small/acc", "corpus/f1"} <= set(metrics)


def test_a_metric_of_the_whole_set_is_not_a_mean_of_items(capfd: pytest.CaptureFixture[str]) -> None:
    scored = score("corpus")
    scores = {one.metric: one for one in scored.scores}
    chosen = [int(item.log_likelihoods[1] > item.log_likelihoods[0]) for item in scored.items]
    assert scores["f1"].value == pytest.approx(f1_score([number % 3 % 2 for number in range(7)], chosen))
    assert scores["f1"].stderr is not None and scores["f1"].stderr > 0  # from the bootstrap
    assert set(scores) == {"f1", "acc"}
    assert all(set(item.values) == {"acc"} for item in scored.items)
    assert capfd.readouterr() == ("", "")


def test_a_perplexity_has_no_standard_error_and_ranks_nothing() -> None:
    scored = score("rolling")
    assert [(one.metric, one.stderr, one.primary) for one in scored.scores] == [
        ("word_perplexity", None, False),
        ("byte_perplexity", None, False),
    ]
    assert scored.scores[0].value > scored.scores[1].value > 1
    assert len(scored.items) == 3


def test_free_text_with_shots_and_limit(capfd: pytest.CaptureFixture[str]) -> None:
    scored = score("free", shots=2, limit=2)
    assert [(one.metric, one.n, one.invalid_rate, one.primary) for one in scored.scores] == [
        ("exact_match", 2, 0.0, True)
    ]
    assert [len(item.outputs) for item in scored.items] == [1, 1]
    other = score("free", shots=0, limit=2)
    assert {item.prompt_hash for item in scored.items}.isdisjoint(item.prompt_hash for item in other.items)
    assert capfd.readouterr() == ("", "")


def test_what_lm_eval_would_pass_over_is_refused() -> None:
    with pytest.raises(HubinitError, match="leave out --shots"):
        score("fixed", shots=2)
    assert score("fixed").scores[0].n == score("fixed").scores[0].n == 3  # a second time as well


def test_recorded_outputs_are_refused() -> None:
    with pytest.raises(HubinitError, match="is scored inside lm-eval"):
        score_outputs("lm-eval:free", ["blue"] * 3)
