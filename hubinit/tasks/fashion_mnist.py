"""Fashion-MNIST: 10 kinds of clothes in grey."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="fashion-mnist",
    title="Fashion-MNIST",
    kind="vision",
    scorer="accuracy",
    dataset="zalando-datasets/fashion_mnist",
    config="fashion_mnist",
    train_split="train",
    test_split="test",
    source="Xiao et al. 2017 (arXiv 1708.07747): accuracy on the official test split",
)
