"""MetaMathQA as PEFT's method comparison trains on it: rows of at most 1,300 characters."""

from hubinit.data.encode import Example
from hubinit.tasks.gsm8k_peft import template
from hubinit.tasks.instructions import training_data
from hubinit.tasks.metamath import DATASET, asked

LONGEST = 1300  # characters of query, space and response

TASK = training_data(
    "metamath-peft",
    "MetaMathQA (PEFT)",
    DATASET,
    training=lambda row: Example(template(row["query"]), row["response"]),
    keep=lambda row: len(f"{row['query']} {row['response']}") <= LONGEST,
    question=asked,
    source="Yu et al. 2023 (arXiv 2309.12284); huggingface/peft at d9e56aa, method_comparison/MetaMathQA/data.py, prompt of "
    "default_training_params.json at 405490e",
)
