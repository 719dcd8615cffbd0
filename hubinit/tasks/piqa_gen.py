"""PIQA, answered in free text."""

from hubinit.tasks.llm_adapters import answer_format, commonsense_task, numbered
from hubinit.tasks.questions import solutions

TASK = commonsense_task(
    "piqa-gen",
    "PIQA (generative)",
    "baber/piqa",
    test_split="validation",
    words=("solution1", "solution2"),
    question=solutions,
    instruction=lambda row: (
        f"Please choose the correct solution to the question: {row['goal']}\n\n"
        f"{numbered('Solution', [row['sol1'], row['sol2']], chr(10) * 2)}\n\n{answer_format('solution', 2)}"
    ),
    answer=lambda row: f"solution{row['label'] + 1}",
)
