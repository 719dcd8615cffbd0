"""CodeFeedback as LoRA-GA and LoRA-One train on it: answers up to the end of their first block of code."""

from hubinit.data.encode import Example
from hubinit.tasks.instructions import frame, training_data

FENCE = "```"


def first_block(answer: str) -> str:
    """What stands before the first block of code, and the block."""
    return FENCE.join(answer.split(FENCE)[:2]) + FENCE


TASK = training_data(
    "codefeedback",
    "CodeFeedback",
    "m-a-p/CodeFeedback-Filtered-Instruction",
    training=lambda row: Example(frame(row["query"]), f" {first_block(row['answer'])}"),
    keep=lambda row: FENCE in row["answer"],
    source="Zheng et al. 2024 (arXiv 2402.14658); rows and prompt as in Outsider565/LoRA-GA at 7cbdd68, reproduce/data.py "
    "load_codefeedback",
)
