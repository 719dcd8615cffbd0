"""HumanEval: complete a function from its signature and docstring; hidden tests decide."""

from hubinit.data.encode import Example
from hubinit.tasks.coding import FENCED, LORA_GA
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Coding, Decoding, Document, Generative, Reading, Task

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def program(document: Document, code: str) -> str:
    """The function with its tests. Code that is a whole function stands behind the one that the prompt begins, and counts."""
    return f"{document['prompt']}{code}\n{document['test']}\ncheck({document['entry_point']})"


TASK = Task(
    name="humaneval",
    title="HumanEval",
    kind="language",
    dataset="openai/openai_humaneval",
    config="openai_humaneval",
    train_split="",
    test_split="test",
    scorer="code",
    question=free_text("prompt"),
    needs="a sandbox",
    primary="pass@1",
    generative=Generative(
        prompt=lambda document: str(document["prompt"]),
        training=lambda row: Example(row["prompt"], row["canonical_solution"]),
        decoding=Decoding(max_new_tokens=512, stop=STOP),
        sampling=Decoding(max_new_tokens=512, temperature=0.8, top_p=0.95, stop=STOP),
        identify=lambda document: str(document["task_id"]),
    ),
    coding=Coding(
        program=program,
        readings=(
            Reading("", lambda output: output, "openai/human-eval, execution.py: prompt and completion as they are"),
            FENCED,
            LORA_GA,
        ),
    ),
    source="Chen et al. 2021 (arXiv 2107.03374): pass@k by the unbiased estimator, the five stop texts, nucleus sampling with "
    "p = 0.95 and temperature 0.8 for pass@100; one answer is decoded greedily. As in openai/human-eval",
)
