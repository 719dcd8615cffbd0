"""The generative commonsense protocol of LLM-Adapters (Hu et al. 2023, arXiv 2304.01933), to the byte.

github.com/AGI-Edgerunners/LLM-Adapters: `commonsense_evaluate.py` asks, decodes and extracts, `finetune.py` trains. FILet, DoRA,
KaSA, LoRA-Dash and MiLoRA report by it. The indentation of the released source is a part of both prompts, and the two differ:
training has one more space after "request." and a blank line that is not empty.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from hubinit.data.encode import Example
from hubinit.tasks.spec import Asked, Decoding, Document, Generative, Rule, Task

INDENT = " " * 16
INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request. "
)
RESPONSE = "### Response:"
ANSWERS = ("answer1", "answer2", "answer3", "answer4", "answer5")
# How an output begins that repeats the prompt, after the token that begins a text, which some tools leave in.
ECHO = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*Below is an instruction that describes a task")
SOURCE = "AGI-Edgerunners/LLM-Adapters commonsense_evaluate.py: the first match of {words}, case-sensitive, equals the answer"


def frame(instruction: str) -> str:
    """The prompt that the model answers when it is scored."""
    return f"{INTRODUCTION}\n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n\n{INDENT}{RESPONSE}\n{INDENT}"


def training_frame(instruction: str) -> str:
    """The prompt that the model is trained on."""
    return f"{INTRODUCTION} \n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n{INDENT}\n{INDENT}{RESPONSE}\n{INDENT}"


def numbered(word: str, texts: list[str], separator: str = " ") -> str:
    """`Answer1: … Answer2: …`."""
    return separator.join(f"{word}{number}: {text}" for number, text in enumerate(texts, 1))


def answer_format(word: str, count: int) -> str:
    """`Answer format: answer1/answer2`."""
    return "Answer format: " + "/".join(f"{word}{number}" for number in range(1, count + 1))


def choose_answer(question: str, texts: list[str]) -> str:
    """The instruction of SIQA, ARC and OpenBookQA; as many answers as the question has."""
    return (
        f"Please choose the correct answer to the question: {question}\n\n{numbered('Answer', texts)}\n\n"
        f"{answer_format('answer', len(texts))}"
    )


def letter_answer(row: Document) -> str:
    """The answer of a row whose choices are labelled with letters or digits."""
    return f"answer{list(row['choices']['label']).index(row['answerKey']) + 1}"


def response_of(output: str) -> str | None:
    """What a model answered, whether or not the output repeats the prompt; None where only a piece of the prompt is there.

    An output that begins as the prompt does is a prompt and its answer, which ends before another `### Response:`, as in the
    released code. Any other output is the answer alone, and ends there too. A heading of the frame inside of an answer changes
    nothing: only the beginning tells.
    """
    pieces = output.split(RESPONSE)
    if not ECHO.match(output):
        return pieces[0]
    return pieces[1] if len(pieces) > 1 else None


def first_match(words: tuple[str, ...]) -> Callable[[str], str | None]:
    """The rule that reads an answer: the first of the words in the response; a later correction does not count."""
    pattern = re.compile("|".join(words))

    def extract(output: str) -> str | None:
        found = pattern.search(response_of(output) or "")
        return found.group() if found else None

    return extract


def commonsense_task(
    name: str,
    title: str,
    dataset: str,
    *,
    config: str | None = None,
    test_split: str,
    train_configs: tuple[str, ...] = (),
    words: tuple[str, ...],
    question: Callable[[Document], Asked],
    instruction: Callable[[Document], str],
    answer: Callable[[Document], str],
) -> Task:
    """One of the eight sets.

    Args:
        name: as in `--tasks`.
        title: as printed.
        dataset: Hub repository.
        config: its configuration.
        test_split: what is scored.
        train_configs: the configurations whose training splits are joined, where there are several.
        words: the answers, in the order in which the released pattern tries them.
        question: row ─► question and right answer.
        instruction: row ─► the text between the headings.
        answer: row ─► the right one of `words`.
    """
    rule = Rule(
        "acc", first_match(words), lambda found, row: found == answer(row), SOURCE.format(words="|".join(words))
    )
    task = framed_task(
        name,
        title,
        dataset,
        rule,
        config=config,
        question=question,
        instruction=instruction,
        taught=lambda row: f"the correct answer is {answer(row)}",
        max_new_tokens=32,
        source=f"Hu et al. 2023 (arXiv 2304.01933): {rule.source}; 4 beams, 32 new tokens",
    )
    return replace(task, test_split=test_split, train_configs=train_configs)


def framed_task(
    name: str,
    title: str,
    dataset: str,
    rule: Rule,
    *,
    config: str | None = None,
    question: Callable[[Document], Asked],
    instruction: Callable[[Document], str],
    taught: Callable[[Document], str],
    max_new_tokens: int,
    source: str,
) -> Task:
    """A task that is asked and taught in the two frames, and read by one rule, which ranks.

    Args:
        name: as in `--tasks`.
        title: as printed.
        dataset: Hub repository with a split `train` and a split `test`.
        rule: reads the answers.
        config: configuration of the data set.
        question: row ─► question and right answer.
        instruction: row ─► the text between the headings.
        taught: row ─► the completion that is trained on.
        max_new_tokens: per answer.
        source: the paper and the official rule.
    """
    # `temperature`, `top_p` and `top_k` are set in the released code as well, but sampling is not switched on.
    decoding = Decoding(max_new_tokens=max_new_tokens, beams=4)
    return Task(
        name=name,
        title=title,
        kind="language",
        dataset=dataset,
        config=config,
        train_split="train",
        test_split="test",
        scorer="rules",
        primary=rule.name,
        question=question,
        source=source,
        generative=Generative(
            prompt=lambda row: frame(instruction(row)),
            training=lambda row: Example(training_frame(instruction(row)), taught(row)),
            decoding=decoding,
        ),
        rules=(rule,),
    )
