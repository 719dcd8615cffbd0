"""GSM8K as MiLoRA trains and scores it."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_papers import gsm8k_task, solution_with_phrase
from hubinit.tasks.gsm8k_rules import MILORA
from hubinit.tasks.spec import Generative
from hubinit.tasks.step_by_step import frame, greedy, training_frame

TASK = gsm8k_task(
    "gsm8k-milora",
    "GSM8K (MiLoRA)",
    MILORA,
    generative=Generative(
        prompt=lambda row: frame(row["question"]),
        training=lambda row: Example(training_frame(row["question"]), solution_with_phrase(row)),
        decoding=greedy(1024),
    ),
    source="Wang et al. 2024 (arXiv 2406.09044), github.com/sufenlp/MiLoRA; it trains on MetaMathQA",
)
