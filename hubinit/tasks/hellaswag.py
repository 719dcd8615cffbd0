"""HellaSwag: the most plausible continuation of a scene."""

from hubinit.tasks.questions import endings
from hubinit.tasks.spec import Task

TASK = Task(
    name="hellaswag",
    title="HellaSwag",
    kind="language",
    dataset="Rowan/hellaswag",
    config=None,
    train_split="train",
    test_split="validation",
    definition="hellaswag/hellaswag.yaml",
    harness="hellaswag",
    primary="acc_norm,none",
    question=endings,
    source="Zellers et al. 2019 (arXiv 1905.07830): accuracy, by convention of the length-normalised log-likelihood; scored on "
    "the validation split, as the test labels are withheld",
)
