"""Handwritten digits, 8 × 8 pixels: for trying things out."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="digits",
    title="Digits",
    kind="vision",
    scorer="accuracy",
    dataset="hubinit/digits",
    config=None,
    train_split="train",
    test_split="test",
    source="scikit-learn load_digits (UCI Optdigits): the last 360 of 1797 images are the test split; no official one",
)
