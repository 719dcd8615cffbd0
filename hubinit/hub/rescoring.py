"""The answers in item records read again by the tasks' own rules: what a stranger says is held against them.

Nothing that was handed in is executed: programs that a model wrote do not run, and a judge is not asked again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from hubinit import tasks
from hubinit.errors import HubError, HubinitError, first_line
from hubinit.leaderboard.submission import CLOSE, Submitted
from hubinit.records import Item, Score
from hubinit.scoring.contamination import clean_score
from hubinit.scoring.evaluate import SCORERS
from hubinit.scoring.generation import hash_of
from hubinit.scoring.lm_eval import metric_name
from hubinit.scoring.outputs import questions_of
from hubinit.scoring.spec import mean_scores
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
            run.notes.append(one_line(f"{name[:100]}: {UNREAD[scorer]}; values as handed in"))
            run.wrong += _unread(task, scores, items) if task else ()
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
        fresh = [item.model_copy(update={"values": one}) for item, one in zip(ordered, values, strict=True)]
        expected = mean_scores(fresh, task, evaluation, primary=metric_name(*task.primary.split(",")))
    else:
        grade = SCORERS[task.scorer].grade
        if grade is None or not all(item.outputs for item in ordered):
            yield f"{task.name}: its items hold no answers"
            return
        graded = grade(task, documents, [item.outputs for item in ordered], evaluation)
        fresh = [item.model_copy(update={"seen": old.seen}) for item, old in zip(graded.items, ordered, strict=True)]
        expected = list(graded.scores)
    for metric in fresh[0].values:
        pairs = zip(ordered, fresh, strict=True)
        others = [
            old.id for old, new in pairs if metric in old.values and not _close(old.values[metric], new.values[metric])
        ]
        if others:
            shown = ", ".join(others[:NAMED])
            yield f"{task.name} {metric}: {len(others)} answers do not give the value they are said to have, such as {shown}"
    if 0 < sum(bool(item.seen) for item in fresh) < len(fresh) and SCORERS[task.scorer].verdicts:
        expected += [clean_score(score, fresh) for score in expected if score.primary]
    yield from _against(expected, scores)


def _against(expected: Sequence[Score], scores: Sequence[Score]) -> Iterator[str]:
    """Scores that are not those which the answers give; one that another machine could make and this one cannot may not rank."""
    by_metric = {score.metric: score for score in expected}
    task = scores[0].task
    if not any(score.metric in by_metric for score in scores):
        yield f"{task}: none of its metrics is one of the task's"
    for score in scores:
        where, right = f"{task} {score.metric}", by_metric.get(score.metric)
        if score.primary != bool(right and right.primary):
            yield f"{where}: it {'ranks' if score.primary else 'does not rank'}, unlike in the task"
        if right is None:
            continue
        if not _close(score.value, right.value):
            yield f"{where}: the score is {score.value:.6g}, its answers give {right.value:.6g}"
        if score.n != right.n:
            yield f"{where}: {score.n} questions, its answers are {right.n}"
        if None not in (score.stderr, right.stderr) and not _close(score.stderr or 0.0, right.stderr or 0.0):
            yield f"{where}: the standard error is {score.stderr:.6g}, its answers give {right.stderr:.6g}"


def _unread(task: Task, scores: Sequence[Score], items: Sequence[Item]) -> Iterator[str]:
    """What is wrong with values as they were handed in, as far as they tell."""
    for score in scores:
        where = f"{task.name} {score.metric}"
        if score.primary != (score.metric == task.primary):
            yield f"{where}: it {'ranks' if score.primary else 'does not rank'}, unlike in the task"
        enough = all if SCORERS[task.scorer].verdicts else any  # a judge may give an answer no rating
        if score.primary and not enough(score.metric in item.values for item in items):
            yield f"{where}: items have no value of it"


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
