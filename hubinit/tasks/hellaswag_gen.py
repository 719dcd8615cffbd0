"""HellaSwag, answered in free text."""

from hubinit.tasks.llm_adapters import answer_format, commonsense_task, numbered
from hubinit.tasks.questions import endings

TASK = commonsense_task(
    "hellaswag-gen",
    "HellaSwag (generative)",
    "Rowan/hellaswag",
    test_split="validation",
    words=("ending1", "ending2", "ending3", "ending4"),
    question=endings,
    instruction=lambda row: (
        f"Please choose the correct ending to complete the given sentence: {row['activity_label']}: {row['ctx']}\n\n"
        f"{numbered('Ending', row['endings'])}\n\n{answer_format('ending', 4)}"
    ),
    answer=lambda row: f"ending{int(row['label']) + 1}",
)
