"""Any task or group of lm-eval: the values and standard errors are those that lm-eval itself computes."""

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, SupportsFloat

import torch

from hubinit.errors import HubinitError, first_line
from hubinit.records import Item, Score
from hubinit.scoring import lm_eval
from hubinit.scoring.spec import Progress, Scored, Scorer, invalid_share
from hubinit.specs import EvalSpec
from hubinit.tasks import named
from hubinit.tasks.spec import Task

BOOTSTRAP = (
    1000  # resamples for the standard error of a metric that is not a mean; lm-eval's command line takes 100,000
)


def score_named(
    task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> Scored:
    """Scores a task, or a group with all tasks in it.

    A group's scores are lm-eval's aggregates, one of which ranks it. Those of the tasks and groups in it stand beside them as
    `<task>/<metric>`, and its items are named `<task>/<document>`.
    """
    from lm_eval.evaluator import evaluate as run

    named.check_shots(task, evaluation.shots)
    loaded = named.load(task, evaluation.revision)
    for definition in loaded["tasks"].values():
        definition.set_config("num_fewshot", evaluation.shots)
        definition.set_fewshot_seed(1234)  # lm-eval's own
    try:
        with torch.no_grad(), silent(), named.own_code_only(task.name):
            results = run(
                lm_eval.lm_eval_model(model, tokenizer, batch_size, on_progress),
                loaded,
                limit=evaluation.limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=True,
            )
    except (torch.OutOfMemoryError, HubinitError):
        raise
    except ImportError as error:
        raise named.lacking(task.name, error) from error
    except Exception as error:  # definitions are the work of many hands, and fail in as many ways
        raise HubinitError(f"Task '{task.name}' cannot be scored on this model: {first_line(error)}.") from error
    items = {
        name: lm_eval.items_of(results["samples"][name], task, definition)
        for name, definition in loaded["tasks"].items()
    }
    grouped = task.harness not in items
    every = [
        item.model_copy(update={"id": f"{name}/{item.id}"}) if grouped else item
        for name, own in items.items()
        for item in own
    ]
    scores = scores_of(task, "", results, every, evaluation)
    for part in results["results"]:  # the tasks and groups in a group
        if part != task.harness:
            scores += scores_of(task, part, results, items.get(part, []), evaluation)
    if not scores:
        raise HubinitError(f"lm-eval gives '{task.name}' no score that is a number.")
    return Scored(scores, every)


def scores_of(
    task: Task, part: str, results: Mapping[str, Any], items: list[Item], evaluation: EvalSpec
) -> list[Score]:
    """lm-eval's metrics of a task (`part` is ""), or of a part of a group.

    The first metric of which more is better ranks a task: a perplexity ranks nothing.
    """
    name = part or task.harness
    found = results["results"][name]
    better = results["higher_is_better"].get(name) or {}
    answers = [item for item in items if item.outputs]
    scores: list[Score] = []
    for key, value in found.items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr") or not isinstance(value, SupportsFloat):
            continue
        own = lm_eval.metric_name(metric, rule)
        error = found.get(f"{metric}_stderr,{rule}")
        known = isinstance(error, SupportsFloat) and math.isfinite(error)
        scores.append(
            Score(
                task=task.name,
                metric=f"{part}/{own}" if part else own,
                value=float(value),
                n=int(found.get("sample_count", {}).get(key) or found["sample_len"]),
                stderr=float(error) if known else None,
                invalid_rate=invalid_share(answers, own) if answers else None,
                primary=not part and better.get(metric) is not False and not any(score.primary for score in scores),
                eval=evaluation,
            )
        )
    return scores


@contextmanager
def silent() -> Iterator[None]:
    """Without what lm-eval prints, and with the bootstrap in this process: a pool would fork a process that holds a model."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.pop("DISABLE_MULTIPROC") if before is None else os.environ.update(DISABLE_MULTIPROC=before)


LM_EVAL_NAMED = Scorer(
    name=named.SCORER,
    title="lm-eval's own scores of any of its tasks or groups, as `lm-eval:<name>`",
    score=score_named,
)
