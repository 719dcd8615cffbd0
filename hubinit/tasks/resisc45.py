"""RESISC45: 45 kinds of scenes seen from the air."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="resisc45",
    title="RESISC45",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/resisc45",
    config=None,
    train_split="train",
    test_split="test",
    source="Cheng et al. 2017 (arXiv 1703.00121): accuracy; there is no official split, the repository defines it",
)
