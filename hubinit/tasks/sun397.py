"""SUN397: 397 kinds of scenes."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="sun397",
    title="SUN397",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/sun397",
    config=None,
    train_split="train",
    test_split="test",
    source="Xiao et al. 2010: accuracy on the split that the repository defines",
)
