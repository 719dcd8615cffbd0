"""PIQA: which of two ways reaches an everyday physical goal."""

from hubinit.tasks.questions import solutions
from hubinit.tasks.spec import Task

TASK = Task(
    name="piqa",
    title="PIQA",
    kind="language",
    dataset="baber/piqa",
    config=None,
    train_split="train",
    test_split="validation",
    definition="piqa/piqa.yaml",
    harness="piqa",
    primary="acc,none",
    question=solutions,
    source="Bisk et al. 2020 (arXiv 1911.11641): accuracy; scored on the validation split, as the test labels are withheld",
)
