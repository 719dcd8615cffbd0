"""Language tasks through lm-eval, with the model object: its definitions, its filters, its metrics.

The model is passed as it is, with whatever adapters are active, so one base in memory serves all runs. lm-eval's own adapter
loading is never used: it has scored the bare base silently.
"""

import io
import logging
from contextlib import redirect_stderr
from typing import Any

import torch

from hubinit.errors import HubinitError
from hubinit.records import Score
from hubinit.scoring.spec import Progress, Scorer, mean_score
from hubinit.specs import EvalSpec
from hubinit.tasks import harness
from hubinit.tasks.spec import Task

INVALID = "[invalid]"  # what lm-eval's answer filters return when they find no answer


def score_text(
    task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> list[Score]:
    """Scores a language task with lm-eval's definition; standard errors are s/√n of the per-example values."""
    from lm_eval.evaluator import evaluate as run

    definition = harness.load(task, evaluation.revision)
    definition.set_config("num_fewshot", evaluation.shots)
    definition.set_fewshot_seed(1234)  # lm-eval's own
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # its progress bars have no other switch
            results = run(
                lm_eval_model(model, tokenizer, batch_size, on_progress),
                {"tasks": {task.harness: definition}},
                limit=evaluation.limit,
                bootstrap_iters=0,
                log_samples=True,
            )
    except AssertionError as error:  # lm-eval's way to say that the model's context is too short for the task
        raise HubinitError(f"Task '{task.name}' cannot be scored on this model: {error}") from error
    samples = results["samples"][task.harness]
    scores = []
    for rule in dict.fromkeys(sample["filter"] for sample in samples):
        filtered = [sample for sample in samples if sample["filter"] == rule]
        invalid = [INVALID in sample["filtered_resps"] for sample in filtered]
        for metric in filtered[0]["metrics"]:
            scores.append(
                mean_score(
                    [float(sample[metric]) for sample in filtered],
                    task=task,
                    metric=metric if rule == "none" else f"{metric},{rule}",
                    primary=f"{metric},{rule}" == task.primary,
                    evaluation=evaluation,
                    invalid_rate=sum(invalid) / len(invalid) if definition.OUTPUT_TYPE == "generate_until" else None,
                )
            )
    return scores


def lm_eval_model(model: Any, tokenizer: Any, batch_size: int, on_progress: Progress) -> Any:
    """The model in lm-eval's clothes: log-probabilities in float32 whatever the model's type, and no progress bars."""
    from lm_eval.models.huggingface import HFLM

    class Reporting(HFLM):  # type: ignore[misc]
        """Reports progress; everything else is lm-eval's."""

        done = total = 0

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            self.done, self.total = 0, len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            self.done, self.total = 0, len(requests)
            return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

        def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            logits = super()._model_call(inps, *args, **kwargs)  # (B, T, V)
            self.advance(len(inps))
            return logits  # type: ignore[no-any-return]

        def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            tokens = super()._model_generate(context, *args, **kwargs)  # (B, T)
            self.advance(len(context))
            return tokens  # type: ignore[no-any-return]

        def advance(self, count: int) -> None:
            self.done = min(self.done + count, self.total)
            on_progress(self.done, self.total)

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return Reporting(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


LM_EVAL = Scorer(name="lm-eval", title="lm-eval's own definition: prompt, filter, metric", score=score_text)
