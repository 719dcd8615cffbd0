"""GSM8K as LoRA-GA scores it, with sampled answers."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_papers import gsm8k_task, question_answer, solution
from hubinit.tasks.gsm8k_rules import LORA_GA
from hubinit.tasks.spec import Decoding, Generative

TASK = gsm8k_task(
    "gsm8k-lora-ga",
    "GSM8K (LoRA-GA)",
    LORA_GA,
    generative=Generative(
        prompt=lambda row: question_answer(row["question"]),
        training=lambda row: Example(question_answer(row["question"]), f" {solution(row)}"),
        decoding=Decoding(max_new_tokens=1024, temperature=0.8, top_p=0.95),
    ),
    source="Wang et al. 2024 (arXiv 2407.05000), examples/eval_gsm8k.py; it trains on the GSM part of MetaMathQA",
)
