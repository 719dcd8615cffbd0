import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, PeftModel, get_peft_model

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.scoring import lm_eval as evaluation
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import EvalSpec
from tests.texts import arc, language_model, save_arc, save_gsm8k, tokenizer

ARC = EvalSpec(task="arc-easy")


@pytest.fixture(scope="module", autouse=True)
def local_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name, path in (("arc-easy", save_arc(folder / "arc", test=6)), ("gsm8k", save_gsm8k(folder / "gsm8k"))):
            patch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset=str(path)))
        yield


def log_likelihood(model: Any, prompt: str, completion: str) -> float:
    """The oracle: one sequence at a time, in float64, no batching and no padding."""
    tokens = tokenizer()
    start = len(tokens(prompt)["input_ids"])
    ids = torch.tensor(tokens(prompt + completion)["input_ids"])
    with torch.no_grad():
        logs = model(ids[None]).logits[0].double().log_softmax(-1)
    return sum(float(logs[position - 1, ids[position]]) for position in range(start, len(ids)))


def adapted(seed: int = 0) -> PeftModel:
    """Two adapters of visible size, both active, as a residual method trains them."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(language_model(), config)
    model.add_adapter("anchor", config)
    model.base_model.set_adapter(["default", "anchor"])
    return model


def test_scores_are_those_of_the_definition() -> None:
    model = language_model()
    plain, normalised = [], []
    for row in arc(6, first=1000):
        prompt = f"Question: {row['question']}\nAnswer:"
        texts = row["choices"]["text"]
        sums = torch.tensor([log_likelihood(model, prompt, f" {text}") for text in texts])
        gold = row["choices"]["label"].index(row["answerKey"])
        plain.append(float(sums.argmax() == gold))
        normalised.append(float((sums / torch.tensor([len(text) for text in texts])).argmax() == gold))
    acc, acc_norm = evaluate_one(model, tokenizer(), ARC, batch_size=4).scores
    assert plain != normalised  # the two rules differ on these data
    for score, values in ((acc, plain), (acc_norm, normalised)):
        mean = sum(values) / 6
        assert score.value == pytest.approx(mean)
        assert score.stderr == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 5 / 6))
        assert (score.n, score.invalid_rate, score.eval) == (6, None, ARC)
    assert (acc.metric, acc.primary) == ("acc", True)
    assert (acc_norm.metric, acc_norm.primary) == ("acc_norm", False)


def test_all_active_adapters_count() -> None:
    model, base = adapted(), language_model()
    prompt, completion = "Question: What is the color?\nAnswer:", " blue"
    request = Instance("loglikelihood", {}, (prompt, completion), 0)

    def scored(model: Any) -> float:
        return evaluation.lm_eval_model(model, tokenizer(), 4, lambda done, total: None).loglikelihood([request])[0][0]

    both = scored(model)
    assert both == pytest.approx(log_likelihood(model, prompt, completion), abs=1e-4)
    assert scored(base) == pytest.approx(log_likelihood(base, prompt, completion), abs=1e-4)
    model.base_model.set_adapter(["default"])
    one = scored(model)
    with model.disable_adapter():
        none = scored(model)
    assert none == pytest.approx(scored(base), abs=1e-4)
    assert min(abs(both - one), abs(one - none), abs(both - none)) > 1e-2


def test_a_scored_model_can_still_be_trained() -> None:
    model = adapted()
    evaluate_one(model, tokenizer(), ARC, batch_size=4)
    ids = torch.tensor([tokenizer()("What is the color?")["input_ids"]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_bfloat16_scores_are_summed_in_float32() -> None:
    """lm-eval would take the logarithms in bfloat16, whose steps near −8 are 1/32."""
    model = language_model().bfloat16()
    prompt, completion = "Question: What is the color?\nAnswer:", " the small bird can fly"
    request = Instance("loglikelihood", {}, (prompt, completion), 0)
    scorer = evaluation.lm_eval_model(model, tokenizer(), 1, lambda done, total: None)
    assert scorer.loglikelihood([request])[0][0] == pytest.approx(log_likelihood(model, prompt, completion), abs=1e-3)


def test_limit_progress_and_silence(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    spec = ARC.model_copy(update={"limit": 2})
    model, note = language_model(), lambda done, total: seen.append((done, total))
    scores = [
        score
        for evaluation in (spec, ARC)
        for score in evaluate_one(model, tokenizer(), evaluation, batch_size=3, on_progress=note).scores
    ]
    assert [score.n for score in scores] == [2, 2, 6, 6]
    assert [done for done, total in seen if total == 9][-1] == 9  # four and five answers
    assert seen[-1] == (24, 24)
    assert capfd.readouterr() == ("", "")


class Parrot:
    """A language model that answers from a list and remembers what it was asked."""

    rank, world_size = 0, 1

    def __init__(self, answers: list[str]) -> None:
        self.answers, self.prompts = answers, []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.prompts = [request.args[0] for request in requests]
        return self.answers


def test_generation_counts_right_wrong_and_unusable_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = Parrot([" 100 + 1 = 101\n#### 101", " I think it is 102", " no idea"])
    monkeypatch.setattr(evaluation, "lm_eval_model", lambda *arguments: parrot)
    scored = evaluate_one(language_model(), tokenizer(), EvalSpec(task="gsm8k"), batch_size=4)
    strict, flexible, *own = scored.scores
    assert (strict.metric, strict.primary) == ("exact_match,strict-match", True)
    assert (strict.value, strict.invalid_rate) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (flexible.metric, flexible.primary) == ("exact_match,flexible-extract", False)
    assert (flexible.value, flexible.invalid_rate) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert strict.stderr == pytest.approx(math.sqrt(1 / 9))
    assert parrot.prompts[0] == "Question: What is 100 plus 1?\nAnswer:"
    values = {score.metric: score.value for score in own}  # the papers' rules read the same outputs
    assert values["strict"] == values["lora-da"] == values["lora-ga"] == pytest.approx(1 / 3)
    names = [score.metric for score in scored.scores]
    assert len(names) == len(set(names)), "no metric is given twice"
    assert [score.metric for score in scored.scores if score.primary] == ["exact_match,strict-match"]


def test_shots_are_solved_examples_of_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = Parrot([""] * 3)
    monkeypatch.setattr(evaluation, "lm_eval_model", lambda *arguments: parrot)
    for shots in (2, 0):
        evaluate_one(language_model(), tokenizer(), EvalSpec(task="gsm8k", shots=shots), batch_size=4)
        assert [prompt.count("####") for prompt in parrot.prompts] == [shots] * 3
        assert all(prompt.count("What is 10") == 1 for prompt in parrot.prompts)  # test questions only as the question


def test_a_real_model_generates(capfd: pytest.CaptureFixture[str]) -> None:
    spec = EvalSpec(task="gsm8k", limit=2)
    strict, *_ = evaluate_one(adapted(), tokenizer(), spec, batch_size=2).scores
    assert (strict.n, strict.value, strict.invalid_rate) == (2, 0.0, 1.0)  # its weights are random
    assert capfd.readouterr() == ("", "")


def test_a_single_example_has_no_standard_error() -> None:
    scores = evaluate_one(language_model(), tokenizer(), ARC.model_copy(update={"limit": 1}), batch_size=4).scores
    assert [score.stderr for score in scores] == [None, None]


def test_a_context_too_short_to_generate_is_one_sentence() -> None:
    model = language_model()
    model.config.max_position_embeddings = 128
    with pytest.raises(HubinitError, match=r"Task 'gsm8k' cannot be scored on this model: .*128"):
        evaluate_one(model, tokenizer(), EvalSpec(task="gsm8k", limit=1), batch_size=1)


def test_the_choice_that_each_accuracy_takes_is_kept() -> None:
    items = evaluate_one(language_model(), tokenizer(), ARC, batch_size=4).items
    for item, row in zip(items, arc(6, first=1000), strict=True):
        texts = row["choices"]["text"]
        right = texts[row["choices"]["label"].index(row["answerKey"])]
        worth = [value / len(text) for value, text in zip(item.log_likelihoods, texts, strict=True)]
        assert item.extracted == {
            "acc": texts[item.log_likelihoods.index(max(item.log_likelihoods))],
            "acc_norm": texts[worth.index(max(worth))],
        }
        assert item.values == {metric: float(chosen == right) for metric, chosen in item.extracted.items()}
