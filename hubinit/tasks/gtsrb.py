"""German Traffic Signs: 43 signs."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="gtsrb",
    title="GTSRB",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/gtsrb",
    config=None,
    train_split="train",
    test_split="test",
    source="Stallkamp et al. 2012: accuracy on the official test split",
)
