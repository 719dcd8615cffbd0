"""HumanEval as LoRA-GA and LoRA-One ask it after training on CodeFeedback: the whole function, in an opened block of code.

Outsider565/LoRA-GA at 7cbdd68, `examples/eval_humaneval.py`. The line end in its first sentence is in the source.
"""

from dataclasses import replace

from hubinit.tasks import humaneval
from hubinit.tasks.coding import LORA_GA
from hubinit.tasks.spec import Decoding, Document


def prompt(document: Document) -> str:
    """The instruction with the beginning of the function, and the opening of the answer's block."""
    return (
        "Below is an instruction that describes a task.\n Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nComplete the following Python code: \n"
        "Notes: respond with the entire complete function definition\n"
        "do not add any comments, be as concise in your code as possible\n"
        "use only built-in libraries, assume no additional imports other than those provided (if any)\n"
        "use `    ` (4 spaces) for each level of indentation\n\n"
        f"code:\n```python\n{document['prompt']}\n```\n\n### Response:\n```python\n"
    )


SAMPLED = Decoding(max_new_tokens=1024, temperature=0.8, top_p=0.95, samples=5)
assert humaneval.TASK.generative is not None and humaneval.TASK.coding is not None
TASK = replace(
    humaneval.TASK,
    name="humaneval-lora-ga",
    title="HumanEval (LoRA-GA)",
    generative=replace(humaneval.TASK.generative, prompt=prompt, decoding=SAMPLED, sampling=None),
    coding=replace(humaneval.TASK.coding, readings=(replace(LORA_GA, name=""),)),
    source=f"Chen et al. 2021 (arXiv 2107.03374), asked and read as by {LORA_GA.source}; 5 samples, top-p 0.95, temperature 0.8",
)
