"""MATH-500: the 500 test problems of MATH that Lightman et al. kept for scoring."""

from hubinit.tasks.hendrycks_math import GENERATIVE
from hubinit.tasks.math_answers import HENDRYCKS, MATH_RULES
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Generative, Task

TASK = Task(
    name="math-500",
    title="MATH-500",
    kind="language",
    dataset="HuggingFaceH4/MATH-500",
    train_split="",
    test_split="test",
    scorer="rules",
    question=free_text("problem"),
    primary=HENDRYCKS.name,
    breakdown=("subject", "level"),
    generative=Generative(
        prompt=GENERATIVE.prompt,
        training=GENERATIVE.training,
        decoding=GENERATIVE.decoding,
        identify=lambda row: str(row["unique_id"]),
    ),
    rules=MATH_RULES,
    source=f"Lightman et al. 2023 (arXiv 2305.20050); prompt of MiLoRA, 2,048 new tokens. {HENDRYCKS.source}",
)
