"""Describable Textures: 47 textures."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="dtd",
    title="DTD",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/dtd",
    config=None,
    train_split="train",
    test_split="test",
    source="Cimpoi et al. 2014 (arXiv 1311.3618): accuracy on the first official test split",
)
