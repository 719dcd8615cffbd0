"""ARC-Easy, answered in free text."""

from hubinit.tasks.llm_adapters import ANSWERS, choose_answer, commonsense_task, letter_answer
from hubinit.tasks.questions import labelled_choices

TASK = commonsense_task(
    "arc-easy-gen",
    "ARC-Easy (generative)",
    "allenai/ai2_arc",
    config="ARC-Easy",
    test_split="test",
    words=ANSWERS,
    question=labelled_choices("question"),
    instruction=lambda row: choose_answer(row["question"], row["choices"]["text"]),
    answer=letter_answer,
)
