"""GSM8K: grade-school word problems, solved in free text; an answer is the number after `####`."""

from hubinit.tasks.gsm8k_rules import GSM8K_RULES
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Task

TASK = Task(
    name="gsm8k",
    title="GSM8K",
    kind="language",
    dataset="openai/gsm8k",
    config="main",
    train_split="train",
    test_split="test",
    definition="gsm8k/gsm8k.yaml",
    harness="gsm8k",
    primary="exact_match,strict-match",
    question=free_text("question"),
    rules=GSM8K_RULES,
    source="Cobbe et al. 2021 (arXiv 2110.14168): exact match of the number found by `#### (\\-?[0-9\\.\\,]+)`, as in "
    "openai/grade-school-math",
)
