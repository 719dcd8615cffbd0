"""CIFAR-10: 10 kinds of things in 32×32 pixels."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="cifar10",
    title="CIFAR-10",
    kind="vision",
    scorer="accuracy",
    dataset="uoft-cs/cifar10",
    config="plain_text",
    train_split="train",
    test_split="test",
    source="Krizhevsky 2009 (Learning Multiple Layers of Features from Tiny Images): accuracy on the official test split",
    image_column="img",
)
