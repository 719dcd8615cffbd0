"""Scores a model on a task with the scorer that the task names. A new scorer is a file here and an entry below."""

from typing import Any

from hubinit.errors import HubinitError
from hubinit.scoring.code import CODE
from hubinit.scoring.e2e import E2E
from hubinit.scoring.engines import VllmModel, generates
from hubinit.scoring.images import ACCURACY
from hubinit.scoring.lm_eval import LM_EVAL
from hubinit.scoring.lm_eval_named import LM_EVAL_NAMED
from hubinit.scoring.mt_bench import JUDGE
from hubinit.scoring.rules import RULES
from hubinit.scoring.spec import Progress, Scored, Scorer
from hubinit.specs import EvalSpec
from hubinit.tasks import get

SCORERS: dict[str, Scorer] = {
    scorer.name: scorer for scorer in (LM_EVAL, LM_EVAL_NAMED, RULES, CODE, E2E, JUDGE, ACCURACY)
}


def evaluate_one(
    model: Any, processor: Any, evaluation: EvalSpec, *, batch_size: int, on_progress: Progress | None = None
) -> Scored:
    """Scores a model on one task.

    Args:
        model: a language model or image classifier, with or without PEFT adapters; the active ones count. Or one in vLLM.
        processor: its tokenizer or image processor.
        evaluation: which task, how many of its test examples, how many solved examples in the prompt.
        batch_size: sequences or images per forward pass.
        on_progress: called with (requests done, requests in all) after every forward pass.

    Returns:
        One score per metric, the task's ranking metric marked `primary`, and a record of every item.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: unknown task, one that this machine cannot score, or a model whose context is too short for it.
    """
    check_scorable(evaluation.task)
    task = get(evaluation.task)
    if not isinstance(model, VllmModel):
        model.eval()
    elif not generates(evaluation):
        raise HubinitError(
            f"'{task.name}' is not scored by free text alone, and vLLM does nothing else; leave out --engine."
        )
    return SCORERS[task.scorer].score(
        task, model, processor, evaluation, batch_size, on_progress or (lambda done, total: None)
    )


def check_scorable(name: str) -> None:
    """Checks whether this machine has what the scorer of a task needs.

    Raises:
        HubinitError: unknown task, or something is missing; the message says what.
    """
    task = get(name)
    if task.trains_only:
        raise HubinitError(f"'{name}' is training data with nothing to score: name what to score with --eval-tasks.")
    check = SCORERS[task.scorer].check
    if check is not None:
        check()
