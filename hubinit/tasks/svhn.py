"""Street View House Numbers: cropped digits."""

from hubinit.tasks.spec import Task

TASK = Task(
    name="svhn",
    title="SVHN",
    kind="vision",
    scorer="accuracy",
    dataset="ufldl-stanford/svhn",
    config="cropped_digits",
    train_split="train",
    test_split="test",
    source="Netzer et al. 2011: accuracy on the official test split of the cropped digits",
)
