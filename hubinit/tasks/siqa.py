"""Social IQa: questions about motives and reactions of people."""

from hubinit.tasks.questions import social
from hubinit.tasks.spec import Task

TASK = Task(
    name="siqa",
    title="SIQA",
    kind="language",
    dataset="lighteval/siqa",
    config=None,
    train_split="train",
    test_split="validation",
    definition="siqa/siqa.yaml",
    harness="social_iqa",
    primary="acc,none",
    question=social,
    source="Sap et al. 2019 (arXiv 1904.09728): accuracy; scored on the validation split, as the test split is not public",
)
