"""MBPP: write a function from one sentence and three tests, which decide."""

from hubinit.data.encode import Example
from hubinit.tasks import rows
from hubinit.tasks.coding import FENCED
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Coding, Decoding, Document, Generative, Reading, Task

SOLVED = (2, 3, 4)  # task ids of the solved examples before each question


def ask(document: Document) -> str:
    """The question in the form of the paper. The data end some lines as Windows does, which is not carried on."""
    tests = "\n".join(document["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {document['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def answer(document: Document) -> str:
    """The reference solution with the mark of its end."""
    return str(document["code"]).replace("\r\n", "\n") + "\n[DONE]"


def solved_examples(task: Task, revision: str | None) -> str:
    """The three solved examples of the paper, from the split that is made for this."""
    found = {row["task_id"]: row for row in rows.load_rows(task, "prompt", revision)}
    return "".join(f"{ask(found[number])}{answer(found[number])}\n\n" for number in SOLVED)


def program(document: Document, code: str) -> str:
    """The code, what the tests need, and the tests."""
    return "\n".join((code, document.get("test_setup_code") or "", *document["test_list"]))


TASK = Task(
    name="mbpp",
    title="MBPP",
    kind="language",
    dataset="google-research-datasets/mbpp",
    config="full",
    train_split="train",
    test_split="test",
    scorer="code",
    question=free_text("text"),
    needs="a sandbox",
    primary="pass@1",
    generative=Generative(
        prompt=ask,
        before=solved_examples,
        training=lambda row: Example(ask(row), answer(row)),
        decoding=Decoding(max_new_tokens=512, stop=("[DONE]",)),
        sampling=Decoding(max_new_tokens=512, temperature=0.5, stop=("[DONE]",)),
        identify=lambda document: str(document["task_id"]),
    ),
    coding=Coding(
        program=program,
        readings=(
            Reading(
                "",
                lambda output: output.partition("[DONE]")[0],
                "google-research/mbpp/README.md: [BEGIN] and [DONE] delimit the solution",
            ),
            FENCED,
        ),
    ),
    source="Austin et al. 2021 (arXiv 2108.07732): three-shot prompt with task ids 2, 3 and 4, test split of task ids 11–510, "
    "samples at temperature 0.5; one answer is decoded greedily. As in google-research/mbpp",
)
