"""Free-text answers read by a task's rules: extract, compare, and count what has no usable answer."""

from collections.abc import Mapping, Sequence

from hubinit.records import Item
from hubinit.scoring.generation import scores_generated
from hubinit.scoring.spec import Scored, Scorer, mean_scores
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Document, Task


def grade_by_rules(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """One metric per rule of the task; of several samples the first counts."""
    items = [
        read_answer(task, key, document, samples)
        for (key, document), samples in zip(documents.items(), outputs, strict=True)
    ]
    return Scored(mean_scores(items, task, evaluation, invalid=True), items)


def read_answer(task: Task, key: str, document: Document, samples: Sequence[str]) -> Item:
    """One item with what each rule finds in its output."""
    extracted = {rule.name: answer for rule in task.rules if (answer := rule.extract(samples[0])) is not None}
    values = {
        rule.name: float(rule.name in extracted and rule.matches(extracted[rule.name], document)) for rule in task.rules
    }
    return Item(id=key, outputs=tuple(samples), extracted=extracted, values=values)


RULES = Scorer(
    name="rules",
    title="generates an answer and reads it by the task's rules",
    score=scores_generated(grade_by_rules),
    grade=grade_by_rules,
)
