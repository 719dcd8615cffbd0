"""The frame in which MiLoRA and LoRA-DA score GSM8K and MATH; it is WizardMath's.

zqy0126/LoRA-DA `eval_gsm8k.py`, sufenlp/MiLoRA `train.py`.
"""

from hubinit.tasks.spec import Decoding


def training_frame(question: str) -> str:
    """The prompt that MiLoRA trains on."""
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{question}\n\n### Response:"
    )


def frame(question: str) -> str:
    """The prompt that the model answers when it is scored."""
    return f"{training_frame(question)} Let's think step by step."


def greedy(max_new_tokens: int) -> Decoding:
    """Greedy answers that end before another instruction."""
    return Decoding(max_new_tokens=max_new_tokens, stop=("Instruction:", "Instruction", "Response:", "Response"))
