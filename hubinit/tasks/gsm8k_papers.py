"""GSM8K as the papers ask it, each with the prompt and the decoding of its released code.

They train on MetaMathQA, which is another data set; here GSM8K's own training rows are written in its form: without calculator
annotations, `#### 72`, and where the paper keeps it the line `The answer is: 72`.
"""

import re

from hubinit.tasks.gsm8k_rules import GSM8K_RULES, PHRASE, reference
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Document, Generative, Rule, Task


def solution(row: Document) -> str:
    """A reference solution without its calculator annotations."""
    return re.sub(r"<<.*?>>", "", row["answer"])


def solution_with_phrase(row: Document) -> str:
    """A reference solution in the whole form of MetaMathQA."""
    return f"{solution(row)}\n{PHRASE}{reference(row)}"


def question_answer(question: str) -> str:
    """The prompt of LoRA-GA and LoRA-One, and the one that LoRA-DA trains on; the answer begins with one more space."""
    return f"Q: {question}\nA: "


def gsm8k_task(name: str, title: str, rule: Rule, *, generative: Generative, source: str) -> Task:
    """One paper's GSM8K.

    Args:
        name: as in `--tasks`.
        title: as printed.
        rule: the paper's own, which ranks; all the others are given as well.
        generative: how the paper asks, and the form of what it trains on.
        source: the paper and what it trains on.
    """
    return Task(
        name=name,
        title=title,
        kind="language",
        dataset="openai/gsm8k",
        config="main",
        train_split="train",
        test_split="test",
        question=free_text("question"),
        scorer="rules",
        primary=rule.name,
        rules=GSM8K_RULES,
        generative=generative,
        source=f"{source}; trained here on GSM8K's own rows. {rule.source}",
    )
