"""EuroSAT: 10 kinds of land use seen by a satellite."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="eurosat",
    title="EuroSAT",
    kind="vision",
    scorer="accuracy",
    dataset="tanganke/eurosat",
    config=None,
    train_split="train",
    test_split="test",
    source="Helber et al. 2019 (arXiv 1709.00029): accuracy; there is no official split, the repository defines it",
)
