"""MetaMathQA as PiSSA and MiLoRA train on it: all rows, whole responses."""

from hubinit.data.encode import Example
from hubinit.tasks.instructions import training_data
from hubinit.tasks.spec import Asked, Document
from hubinit.tasks.step_by_step import training_frame

DATASET = "meta-math/MetaMathQA"


def asked(row: Document) -> Asked:
    """A word problem, as GSM8K's questions are read."""
    return row["query"], ""


TASK = training_data(
    "metamath",
    "MetaMathQA",
    DATASET,
    training=lambda row: Example(training_frame(row["query"]), row["response"]),
    question=asked,
    source="Yu et al. 2023 (arXiv 2309.12284); frame and fields as in sufenlp/MiLoRA at 206a1f1, train.py, after PiSSA's",
)
