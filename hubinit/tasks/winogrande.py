"""WinoGrande: which of two nouns a pronoun-like blank refers to.

Scored, and therefore trained, by the text after the blank given the sentence with an option filled in.
"""

from hubinit.tasks.questions import blank
from hubinit.tasks.spec import Task

TASK = Task(
    name="winogrande",
    title="WinoGrande",
    kind="language",
    dataset="allenai/winogrande",
    config="winogrande_xl",
    train_split="train",
    test_split="validation",
    definition="winogrande/default.yaml",
    harness="winogrande",
    primary="acc,none",
    question=blank,
    source="Sakaguchi et al. 2019 (arXiv 1907.10641): accuracy; partial scoring (Trinh and Le 2018, arXiv 1806.02847); scored on "
    "the validation split, as the test labels are withheld",
)
