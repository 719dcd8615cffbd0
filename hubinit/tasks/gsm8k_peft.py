"""GSM8K as PEFT's method comparison scores it."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_papers import gsm8k_task, solution
from hubinit.tasks.gsm8k_rules import PEFT_METAMATH
from hubinit.tasks.spec import Decoding, Generative


def template(question: str) -> str:
    """The prompt of training and scoring."""
    return f"Question: {question} Think step by step.\nAnswer:"


TASK = gsm8k_task(
    "gsm8k-peft",
    "GSM8K (PEFT)",
    PEFT_METAMATH,
    generative=Generative(
        prompt=lambda row: template(row["question"]),
        training=lambda row: Example(template(row["question"]), solution(row)),
        decoding=Decoding(max_new_tokens=512),  # 768 tokens with the prompt there
    ),
    source="huggingface/peft method_comparison/MetaMathQA, default_training_params.json at 405490e; it trains on MetaMathQA",
)
