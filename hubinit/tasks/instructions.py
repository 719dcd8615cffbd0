"""Instruction data that published protocols train on and score elsewhere, in the prompts of LoRA-GA's released code.

github.com/Outsider565/LoRA-GA at 7cbdd68, `reproduce/data.py`; LoRA-One and LoRA-DA carry the same file on. It leaves out texts
of 512 (1,024) tokens and more of Llama-2's tokenizer; here they are cut at the recipe's `max_length`, whatever the model.
Its `utils.py` puts a space between prompt and answer, also where the prompt ends with one (`causalLMEncode`).
"""

from collections.abc import Callable

from hubinit.data.encode import Example
from hubinit.tasks.spec import Asked, Decoding, Document, Generative, Task

UNASKED = Decoding(max_new_tokens=1)  # nothing is scored, so nothing is generated
INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


def frame(instruction: str, context: str = "") -> str:
    """The prompt; with a context it has no introduction, as released."""
    if context:
        return f"### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:\n"
    return f"{INTRODUCTION}### Instruction:\n{instruction}\n\n### Response:\n"


def training_data(
    name: str,
    title: str,
    dataset: str,
    *,
    training: Callable[[Document], Example],
    keep: Callable[[Document], bool] | None = None,
    question: Callable[[Document], Asked] | None = None,
    source: str,
) -> Task:
    """Training data without a test.

    Args:
        name: as in `--tasks`.
        title: as printed.
        dataset: Hub repository with a split `train`.
        training: row ─► prompt and completion.
        keep: whether a row is trained on. Default: all are.
        question: row ─► question and right answer, by which test items are found in it.
        source: the data's paper, and whose prompt it is.
    """
    return Task(
        name=name,
        title=title,
        kind="language",
        dataset=dataset,
        train_split="train",
        test_split="",
        scorer="rules",
        primary="",
        question=question,
        source=source,
        generative=Generative(prompt=lambda row: training(row).prompt, training=training, decoding=UNASKED, keep=keep),
    )
