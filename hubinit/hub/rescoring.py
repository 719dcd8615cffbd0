"""The answers in item records read again by the tasks' own rules: what a stranger says is held against them.

Nothing that was handed in is executed: programs that a model wrote do not run, and a judge is not asked again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from hubinit import tasks
from hubinit.errors import HubError, HubinitError, first_line
from hubinit.leaderboard.submission import CLOSE, Submitted
from hubinit.records import Item, Score
from hubinit.scoring.evaluate import SCORERS
from hubinit.scoring.generation import hash_of
from hubinit.scoring.outputs import questions_of
from hubinit.specs import LM_EVAL_PREFIX, EvalSpec
from hubinit.tasks import harness
from hubinit.tasks.spec import Document, Task
from hubinit.text import one_line

NAMED = 3  # questions that a reason names
UNREAD = {
    "code": "its programs are not run again",
    "judge": "its judge is not asked again",
    "lm-eval-name": "tasks of lm-eval by name are not scored again",
}


def rescore(run: Submitted) -> None:
    """Scores the stored answers of a run again; `wrong`, `notes` and `checks` say what came of it."""
    for scores, items in run.evaluations():
        evaluation = scores[0].eval
        name = evaluation.task
        try:
            task = None if name.startswith(LM_EVAL_PREFIX) else tasks.get(name)
        except HubinitError:
            run.wrong.append(one_line(f"{name[:100]}: hubinit has no such task"))
            continue
        scorer = task.scorer if task else "lm-eval-name"
        if task is None or scorer in UNREAD:
            run.notes.append(
                one_line(f"{name[:100]}: {UNREAD.get(scorer, 'it is not scored again')}; values as handed in")
            )
            continue
        try:
            documents = questions_of(task, evaluation)
            wrong = list(_differences(task, evaluation, documents, scores, items))
        except HubError as error:
            run.notes.append(f"{name}: not scored again: {first_line(error)}")
        except HubinitError as error:
            run.wrong.append(one_line(f"{name}: {first_line(error)}"))
        else:
            run.wrong += wrong
            if not wrong:
                run.checks.append(f"{name}: {len(items)} stored answers give the same values")


def _differences(
    task: Task, evaluation: EvalSpec, documents: Mapping[str, Document], scores: Sequence[Score], items: Sequence[Item]
) -> Iterator[str]:
    """What the answers do not give: questions, prompts, values, scores.

    Raises:
        HubError: a data set cannot be had.
    """
    ids = {item.id for item in items}
    if ids != documents.keys():
        missing, strange = len(documents.keys() - ids), len(ids - documents.keys())
        yield f"{task.name}: {missing} of its {len(documents)} questions have no item, and {strange} items no question"
        return
    by_id = {item.id: item for item in items}
    ordered = [by_id[name] for name in documents]
    yield from _prompts(task, evaluation, documents, ordered)
    if any(item.log_likelihoods for item in ordered):
        values = _choices(task, evaluation, documents, ordered)
        found = {metric: [one[metric] for one in values] for metric in values[0]}
        totals: Mapping[str, float] = {}
    else:
        grade = SCORERS[task.scorer].grade
        if grade is None or not all(item.outputs for item in ordered):
            yield f"{task.name}: its items hold no answers"
            return
        graded = grade(task, documents, [item.outputs for item in ordered], evaluation)
        metrics = graded.items[0].values
        found = {metric: [item.values[metric] for item in graded.items] for metric in metrics}
        totals = {score.metric: score.value for score in graded.scores}
    for metric, values_of in found.items():
        pairs = zip(ordered, values_of, strict=True)
        others = [item.id for item, value in pairs if metric in item.values and not _close(item.values[metric], value)]
        if others:
            shown = ", ".join(others[:NAMED])
            yield f"{task.name} {metric}: {len(others)} answers do not give the value they are said to have, such as {shown}"
    for score in scores:
        if score.metric in totals and not _close(score.value, totals[score.metric]):
            yield f"{task.name} {score.metric}: the score is {score.value:.6g}, its answers give {totals[score.metric]:.6g}"
    if scores[0].task == task.name and not any(score.metric in found or score.metric in totals for score in scores):
        yield f"{task.name}: none of its metrics is one of the task's"


def _prompts(
    task: Task, evaluation: EvalSpec, documents: Mapping[str, Document], items: Sequence[Item]
) -> Iterator[str]:
    """Items whose prompt is not the task's, where the task makes its prompts itself."""
    asks = task.generative
    if asks is None or task.scorer != "rules":
        return
    before = asks.before(task, evaluation.revision) if asks.before else ""
    expected = [hash_of(before + asks.prompt(document)) for document in documents.values()]
    others = [item.id for item, name in zip(items, expected, strict=True) if item.prompt_hash != name]
    if others:
        yield f"{task.name}: {len(others)} prompts are not those of the task, such as of question {others[0]}"


def _choices(
    task: Task, evaluation: EvalSpec, documents: Mapping[str, Document], items: Sequence[Item]
) -> list[dict[str, float]]:
    """What lm-eval's definition makes of the log-likelihoods of each question.

    Raises:
        HubinitError: they are not those of its choices.
    """
    definition = harness.load(task, evaluation.revision)
    found = []
    for item, document in zip(items, documents.values(), strict=True):
        choices = definition.doc_to_choice(document)
        known = [value for value in item.log_likelihoods if math.isfinite(value) and value <= 0]
        if len(known) != len(choices):
            raise HubinitError(f"question {item.id} has {len(choices)} choices, but {len(known)} log-likelihoods.")
        results = definition.process_results(document, [(value, False) for value in known])
        found.append({name: float(value) for name, value in results.items() if isinstance(value, int | float)})
    return found


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(1.0, abs(other))
