"""ARC-Challenge: grade-school science questions that retrieval cannot answer."""

from hubinit.tasks.questions import labelled_choices
from hubinit.tasks.spec import Task

TASK = Task(
    name="arc-challenge",
    title="ARC-Challenge",
    kind="language",
    dataset="allenai/ai2_arc",
    config="ARC-Challenge",
    train_split="train",
    test_split="test",
    definition="arc/arc_challenge.yaml",
    harness="arc_challenge",
    primary="acc_norm,none",
    question=labelled_choices("question"),
    source="Clark et al. 2018 (arXiv 1803.05457): accuracy on the test split, by convention of the length-normalised "
    "log-likelihood",
)
