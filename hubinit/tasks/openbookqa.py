"""OpenBookQA: science questions that need one fact and some reasoning; no fact is given."""

from hubinit.tasks.questions import labelled_choices
from hubinit.tasks.spec import Task

TASK = Task(
    name="openbookqa",
    title="OpenBookQA",
    kind="language",
    dataset="allenai/openbookqa",
    config="main",
    train_split="train",
    test_split="test",
    definition="openbookqa/openbookqa.yaml",
    harness="openbookqa",
    primary="acc_norm,none",
    question=labelled_choices("question_stem"),
    source="Mihaylov et al. 2018 (arXiv 1809.02789): accuracy on the test split, by convention of the length-normalised "
    "log-likelihood; no fact is given",
)
