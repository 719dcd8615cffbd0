"""Stanford Cars: 196 makes and models."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="cars",
    title="Stanford Cars",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/stanford_cars",
    config=None,
    train_split="train",
    test_split="test",
    source="Krause et al. 2013: accuracy on the official test split",
)
