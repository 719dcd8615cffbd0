"""MetaMathQA as LoRA-GA, LoRA-One and LoRA-DA train on it: rows that come from GSM8K, up to the phrase with the answer."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_papers import question_answer
from hubinit.tasks.instructions import training_data
from hubinit.tasks.metamath import DATASET, asked
from hubinit.tasks.spec import Document


def solution(row: Document) -> str:
    """The response as far as `#### 72`."""
    return str(row["response"].split("\nThe answer is:")[0])


TASK = training_data(
    "metamath-gsm",
    "MetaMathQA (GSM part)",
    DATASET,
    training=lambda row: Example(question_answer(row["query"]), f" {solution(row)}"),
    keep=lambda row: "GSM" in row["type"],
    question=asked,
    source="Yu et al. 2023 (arXiv 2309.12284); rows and prompt as in Outsider565/LoRA-GA at 7cbdd68, reproduce/data.py "
    "load_meta_math, the same in zqy0126/LoRA-DA at 0c679c0, data.py",
)
