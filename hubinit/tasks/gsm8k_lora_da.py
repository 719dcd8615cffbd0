"""GSM8K as LoRA-DA scores it; its training prompt is another one."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_papers import gsm8k_task, question_answer, solution
from hubinit.tasks.gsm8k_rules import LORA_DA
from hubinit.tasks.spec import Generative
from hubinit.tasks.step_by_step import frame, greedy

TASK = gsm8k_task(
    "gsm8k-lora-da",
    "GSM8K (LoRA-DA)",
    LORA_DA,
    generative=Generative(
        prompt=lambda row: frame(row["question"]),
        training=lambda row: Example(question_answer(row["question"]), f" {solution(row)}"),
        decoding=greedy(1024),
    ),
    source="LoRA-DA (github.com/zqy0126/LoRA-DA), which trains on the GSM part of MetaMathQA",
)
