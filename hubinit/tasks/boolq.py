"""BoolQ: yes/no questions about a passage."""

from hubinit.tasks.questions import yes_or_no
from hubinit.tasks.spec import Task

TASK = Task(
    name="boolq",
    title="BoolQ",
    kind="language",
    dataset="aps/super_glue",
    config="boolq",
    train_split="train",
    test_split="validation",
    definition="super_glue/boolq/default.yaml",
    harness="boolq",
    primary="acc,none",
    question=yes_or_no("label"),
    source="Clark et al. 2019 (arXiv 1905.10044): accuracy; scored on the validation split, as the test labels are withheld",
)
