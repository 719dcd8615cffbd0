"""What a benchmark is: one frozen object that says where its data are and which rule scores it."""

from dataclasses import dataclass

from hubinit.specs import ModelKind


@dataclass(frozen=True)
class Task:
    """One benchmark.

    Prompts, answers and scoring of language tasks are lm-eval's own, read from its definition, so that a score means what it
    means elsewhere; training examples are made from the same definition. Image tasks are scored by plain accuracy.

    Attributes:
        name: as in `--tasks`.
        title: as printed in tables and cards.
        kind: which models it is for.
        dataset: Hub repository of the data (or a local folder).
        config: configuration of the data set, if it has several.
        train_split: what training and validation examples are drawn from.
        test_split: what is scored; never used to choose anything.
        source: the paper and the official rule.
        scorer: name of what scores it, see `hubinit.scoring.evaluate`.
        definition: lm-eval's file, relative to its folder of tasks ("" for image tasks).
        harness: lm-eval's name of the task.
        primary: the metric that ranks the task, in lm-eval's notation `metric,filter`.
        image_column: column with the image.
        label_column: column with the class index.
    """

    name: str
    title: str
    kind: ModelKind
    dataset: str
    train_split: str
    test_split: str
    source: str
    config: str | None = None
    scorer: str = "lm-eval"
    definition: str = ""
    harness: str = ""
    primary: str = "acc,none"
    image_column: str = "image"
    label_column: str = "label"
