"""OpenBookQA, answered in free text; no fact is given."""

from hubinit.tasks.llm_adapters import ANSWERS, choose_answer, commonsense_task, letter_answer
from hubinit.tasks.questions import labelled_choices

TASK = commonsense_task(
    "openbookqa-gen",
    "OpenBookQA (generative)",
    "allenai/openbookqa",
    config="main",
    test_split="test",
    words=ANSWERS,
    question=labelled_choices("question_stem"),
    instruction=lambda row: choose_answer(row["question_stem"], row["choices"]["text"]),
    answer=letter_answer,
)
