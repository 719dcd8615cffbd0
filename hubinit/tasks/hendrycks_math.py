"""MATH: competition problems of seven subjects and five levels, solved in free text."""

from hubinit.data.encode import Example
from hubinit.tasks.math_answers import HENDRYCKS, MATH_RULES
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Document, Generative, Task
from hubinit.tasks.step_by_step import frame, greedy

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def example(row: Document) -> Example:
    """A problem with its reference solution, in the frame in which it is scored."""
    return Example(frame(row["problem"]), f" {row['solution']}")


GENERATIVE = Generative(prompt=lambda row: frame(row["problem"]), training=example, decoding=greedy(2048))
TASK = Task(
    name="math",
    title="MATH",
    kind="language",
    dataset="EleutherAI/hendrycks_math",
    train_split="train",
    train_configs=SUBJECTS,
    test_split="test",
    test_configs=SUBJECTS,
    scorer="rules",
    question=free_text("problem"),
    primary=HENDRYCKS.name,
    breakdown=("type", "level"),
    generative=GENERATIVE,
    rules=MATH_RULES,
    source=f"Hendrycks et al. 2021 (arXiv 2103.03874); prompt of MiLoRA, 2,048 new tokens. {HENDRYCKS.source}",
)
