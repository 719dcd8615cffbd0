"""ARC-Easy: grade-school science questions that retrieval can answer."""

from hubinit.tasks.questions import labelled_choices
from hubinit.tasks.spec import Task

TASK = Task(
    name="arc-easy",
    title="ARC-Easy",
    kind="language",
    dataset="allenai/ai2_arc",
    config="ARC-Easy",
    train_split="train",
    test_split="test",
    definition="arc/arc_easy.yaml",
    harness="arc_easy",
    primary="acc,none",
    question=labelled_choices("question"),
    source="Clark et al. 2018 (arXiv 1803.05457): accuracy on the test split",
)
