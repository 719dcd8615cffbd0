"""ARC-Challenge, answered in free text."""

from hubinit.tasks.llm_adapters import ANSWERS, choose_answer, commonsense_task, letter_answer
from hubinit.tasks.questions import labelled_choices

TASK = commonsense_task(
    "arc-challenge-gen",
    "ARC-Challenge (generative)",
    "allenai/ai2_arc",
    config="ARC-Challenge",
    test_split="test",
    words=ANSWERS,
    question=labelled_choices("question"),
    instruction=lambda row: choose_answer(row["question"], row["choices"]["text"]),
    answer=letter_answer,
)
