"""What is asked and what is right, whatever form a task gives it: to find test items that occur in training data.

A question counts together with its right answer: goals of PIQA and stems of science questions recur with other answers, which
gives nothing away.
"""

import re
from collections.abc import Callable
from functools import cache

from hubinit.tasks.rows import load_training
from hubinit.tasks.spec import Asked, Document, Task


def labelled_choices(column: str) -> Callable[[Document], Asked]:
    """The reader of rows with `choices` and `answerKey`, as ARC and OpenBookQA have them."""

    def read(row: Document) -> Asked:
        choices = row["choices"]
        return row[column], choices["text"][list(choices["label"]).index(row["answerKey"])]

    return read


def solutions(row: Document) -> Asked:
    """PIQA."""
    return row["goal"], row[f"sol{int(row['label']) + 1}"]


def social(row: Document) -> Asked:
    """SIQA."""
    return f"{row['context']} {row['question']}", row[f"answer{'ABC'[int(row['label']) - 1]}"]


def endings(row: Document) -> Asked:
    """HellaSwag."""
    return row["ctx"], row["endings"][int(row["label"])]


def blank(row: Document) -> Asked:
    """WinoGrande."""
    return row["sentence"], row[f"option{row['answer']}"]


def yes_or_no(column: str) -> Callable[[Document], Asked]:
    """The reader of BoolQ's rows, with the column of the answer."""
    return lambda row: (row["question"], "yes" if row[column] else "no")


def free_text(column: str) -> Callable[[Document], Asked]:
    """The reader of rows whose right answers are free texts, as GSM8K, MATH and MBPP have them: the question alone counts."""
    return lambda row: (row[column], "")


def key_of(asked: Asked) -> int:
    """A number that stands for a question with its answer: words alone count, not case, spaces or punctuation.

    A number takes a tenth of the text's memory, and 64 bits are too many for chance hits among some 10⁵ rows.
    """
    return hash("|".join(" ".join(re.findall(r"\w+", text.lower())) for text in asked))


@cache
def keys_of_training(task: Task, revision: str | None) -> frozenset[int]:
    """What a task's training rows ask; empty for a task that does not say how to read it.

    Raises:
        HubError: the data set cannot be had.
    """
    if task.question is None:
        return frozenset()
    return frozenset(key_of(task.question(row)) for row in load_training(task, revision).to_list())
