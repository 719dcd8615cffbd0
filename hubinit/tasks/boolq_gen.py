"""BoolQ, answered in free text; the passage is not shown."""

from hubinit.tasks.llm_adapters import commonsense_task
from hubinit.tasks.questions import yes_or_no
from hubinit.tasks.spec import Document


def right_answer(row: Document) -> str:
    """`true` or `false`."""
    if not isinstance(row["answer"], bool):
        raise ValueError("its answer is not a truth value")
    return "true" if row["answer"] else "false"


TASK = commonsense_task(
    "boolq-gen",
    "BoolQ (generative)",
    "google/boolq",
    test_split="validation",
    words=("true", "false"),
    question=yes_or_no("answer"),
    instruction=lambda row: (
        f"Please answer the following question with true or false, question: {row['question']}?\n\nAnswer format: true/false"
    ),
    answer=right_answer,
)
