"""Scores a model on tasks: language tasks through lm-eval with the model object, image tasks by plain accuracy.

The model is passed as it is, with whatever adapters are active, so one base in memory serves all runs. lm-eval's own adapter
loading is never used: it has scored the bare base silently.
"""

import io
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch

from hubinit.data.encode import collate_images
from hubinit.errors import HubinitError
from hubinit.records import Score
from hubinit.specs import EvalSpec
from hubinit.tasks import get
from hubinit.tasks.spec import Task

INVALID = "[invalid]"  # what lm-eval's answer filters return when they find no answer
Progress = Callable[[int, int], None]


def evaluate(
    model: Any, processor: Any, evaluations: Sequence[EvalSpec], *, batch_size: int, on_progress: Progress | None = None
) -> list[Score]:
    """Scores a model on several tasks; see `evaluate_one`."""
    scores: list[Score] = []
    for evaluation in evaluations:
        scores += evaluate_one(model, processor, evaluation, batch_size=batch_size, on_progress=on_progress)
    return scores


def evaluate_one(
    model: Any, processor: Any, evaluation: EvalSpec, *, batch_size: int, on_progress: Progress | None = None
) -> list[Score]:
    """Scores a model on one task.

    Args:
        model: a language model or image classifier, with or without PEFT adapters; the active ones count.
        processor: its tokenizer or image processor.
        evaluation: which task, how many of its test examples, how many solved examples in the prompt.
        batch_size: sequences or images per forward pass.
        on_progress: called with (requests done, requests in all) after every forward pass.

    Returns:
        One score per metric; the task's ranking metric is marked `primary`.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: unknown task, a limit below 1, or a model whose context is too short for the task.
    """
    task = get(evaluation.task)
    if evaluation.limit is not None and evaluation.limit < 1:
        raise HubinitError(
            f"limit={evaluation.limit} leaves nothing of task '{task.name}' to score; it must be at least 1."
        )
    model.eval()
    score = score_images if task.kind == "vision" else score_text
    return score(task, model, processor, evaluation, batch_size, on_progress or (lambda done, total: None))


def score_text(
    task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> list[Score]:
    """Scores a language task with lm-eval's definition; standard errors are s/√n of the per-example values."""
    from lm_eval.evaluator import evaluate as run

    from hubinit.tasks import harness

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

    class Scorer(HFLM):  # type: ignore[misc]
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
    return Scorer(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


def score_images(
    task: Task, model: Any, processor: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> list[Score]:
    """Accuracy of an image classifier on the task's test split."""
    from hubinit.tasks import images

    split = images.split(task, task.test_split, evaluation.revision)
    total = min(len(split), evaluation.limit or len(split))
    device = next(model.parameters()).device
    right: list[float] = []
    with torch.no_grad():
        for start in range(0, total, batch_size):
            batch = collate_images(
                [split.example(row) for row in range(start, min(start + batch_size, total))], processor
            )
            predicted = model(pixel_values=batch["pixel_values"].to(device)).logits.argmax(-1).cpu()  # (B,)
            right += (predicted == batch["labels"]).float().tolist()
            on_progress(len(right), total)
    return [mean_score(right, task=task, metric="acc", primary=True, evaluation=evaluation)]


def mean_score(
    values: Sequence[float],
    *,
    task: Task,
    metric: str,
    primary: bool,
    evaluation: EvalSpec,
    invalid_rate: float | None = None,
) -> Score:
    """The mean of per-example values with its standard error s/√n (none for a single example)."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else None
    return Score(
        task=task.name,
        metric=metric,
        value=mean,
        n=n,
        stderr=math.sqrt(variance / n) if variance is not None else None,
        invalid_rate=invalid_rate,
        primary=primary,
        eval=evaluation,
    )
