"""Social IQa, answered in free text."""

from hubinit.tasks.llm_adapters import ANSWERS, choose_answer, commonsense_task
from hubinit.tasks.questions import social

TASK = commonsense_task(
    "siqa-gen",
    "SIQA (generative)",
    "lighteval/siqa",
    test_split="validation",
    words=ANSWERS,
    question=social,
    instruction=lambda row: choose_answer(
        f"{row['context']} {row['question']}", [row["answerA"], row["answerB"], row["answerC"]]
    ),
    answer=lambda row: f"answer{row['label']}",
)
