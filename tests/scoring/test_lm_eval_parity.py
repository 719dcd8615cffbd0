"""The eight commonsense sets on real data: our log-likelihoods by trees against lm-eval's own model class, item for item."""

from dataclasses import replace

import pytest
from lm_eval.evaluator import evaluate as run
from lm_eval.models.huggingface import HFLM

from hubinit import tasks
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import EvalSpec
from hubinit.tasks import harness
from tests.texts import SHARED, language_model, tokenizer

LIMIT = 20
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout"),
]


@pytest.mark.parametrize("name", tasks.members("commonsense"))
def test_every_item_is_scored_as_lm_eval_scores_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(tasks.get(name), dataset=str(SHARED / tasks.get(name).dataset))
    monkeypatch.setitem(tasks.TASKS, name, task)
    model = language_model().double()  # so that another order of sums flips no answer
    theirs = run(
        HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=1),
        {"tasks": {task.harness: harness.load(task, None)}},
        limit=LIMIT,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = {sample["doc_id"]: sample for sample in theirs["samples"][task.harness]}
    evaluation = EvalSpec(task=name, limit=LIMIT)
    ours = evaluate_one(model, tokenizer(), evaluation, batch_size=7)
    assert len(ours.items) == len(samples) == LIMIT
    for item in ours.items:
        sample = samples[int(item.id)]
        assert item.prompt_hash == sample["prompt_hash"][:16]
        likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
        assert item.log_likelihoods == pytest.approx(likelihoods, abs=1e-4)
        assert item.values == {metric: sample[metric] for metric in sample["metrics"]}
    for score in ours.scores:
        assert score.value == pytest.approx(theirs["results"][task.harness][f"{score.metric},none"])
    left = tokenizer()
    left.padding_side = "left"
    other = evaluate_one(model, left, evaluation, batch_size=1)
    assert [item.values for item in other.items] == [item.values for item in ours.items], "batches and padding"
    for item, again in zip(ours.items, other.items, strict=True):
        assert again.log_likelihoods == pytest.approx(item.log_likelihoods, abs=1e-4)
