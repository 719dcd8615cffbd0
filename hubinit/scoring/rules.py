"""Free-text answers read by a task's rules: extract, compare, and count what has no usable answer."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec

from hubinit.records import Item, Score
from hubinit.scoring.generation import scores_generated
from hubinit.scoring.spec import Scored, Scorer, invalid_share, mean_score, mean_scores, wrong_document
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Document, Rule, Task
from hubinit.text import one_line

MODULES = {"math": "math_verify"}  # what an extra of hubinit brings to a rule


def grade_by_rules(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """One metric per rule of the task; of several samples the first counts."""
    items = [
        read_answer(task, key, document, samples)
        for (key, document), samples in zip(documents.items(), outputs, strict=True)
    ]
    parts = part_scores(items, list(documents.values()), task, evaluation)
    return Scored(mean_scores(items, task, evaluation, invalid=True) + parts, items)


def read_answer(task: Task, key: str, document: Document, samples: Sequence[str]) -> Item:
    """One item with what each rule finds in its output.

    Raises:
        HubinitError: the document is not one of the task's.
    """
    output = samples[0]
    rules = [rule for rule in task.rules if can_use(rule)]
    extracted = {rule.name: answer for rule in rules if (answer := rule.extract(output)) is not None}
    try:
        values = {
            rule.name: float(
                rule.name in extracted and rule.matches(output if rule.whole else extracted[rule.name], document)
            )
            for rule in rules
        }
    except (LookupError, TypeError, ValueError) as error:
        raise wrong_document(task, key, error) from error
    return Item(id=key, outputs=tuple(samples), extracted=extracted, values=values)


@cache
def can_use(rule: Rule) -> bool:
    """Whether what the rule needs is installed; says once that it is not."""
    if not rule.extra or find_spec(MODULES[rule.extra]):
        return True
    warnings.warn(f'The metric {rule.name} is left out: pip install "hubinit[{rule.extra}]".', stacklevel=2)
    return False


def part_scores(items: Sequence[Item], documents: Sequence[Document], task: Task, evaluation: EvalSpec) -> list[Score]:
    """The primary metric of the items whose documents agree in a column, for each column that the task is broken down by."""
    scores = []
    for column in task.breakdown:
        parts: dict[str, list[Item]] = {}
        for item, document in zip(items, documents, strict=True):
            parts.setdefault(one_line(document.get(column, "unknown")), []).append(item)
        scores += [
            mean_score(
                [item.values[task.primary] for item in members],
                task=task,
                metric=f"{task.primary},{column}={part}",
                primary=False,
                evaluation=evaluation,
                invalid_rate=invalid_share(members, task.primary),
            )
            for part, members in sorted(parts.items())
        ]
    return scores


RULES = Scorer(
    name="rules",
    title="generates an answer and reads it by the task's rules",
    score=scores_generated(grade_by_rules),
    grade=grade_by_rules,
)
