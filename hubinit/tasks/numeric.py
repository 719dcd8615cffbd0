"""Short arithmetic problems whose answer is a number or a letter, by the math protocol of LLM-Adapters.

Hu et al. 2023 (arXiv 2304.01933), AGI-Edgerunners/LLM-Adapters `evaluate.py`: the frames of `llm_adapters`, 4 beams, 256 new
tokens. Its training rationales were written by ChatGPT and are another data set; here the answer alone is taught.
"""

import re
from collections.abc import Callable

from hubinit.tasks.llm_adapters import first_match, framed_task, response_of
from hubinit.tasks.spec import Document, Rule, Task


def last_number(output: str) -> str | None:
    """The last number of the response; a minus before it counts, even one that means to subtract."""
    found = re.findall(r"-?\d+\.?\d*", (response_of(output) or "").replace(",", ""))
    return found[-1] if found else None


def number_task(
    name: str,
    title: str,
    dataset: str,
    *,
    question: Callable[[Document], str],
    answer: Callable[[Document], float],
    source: str,
) -> Task:
    """A task whose answers are numbers.

    Args:
        name: as in `--tasks`.
        title: as printed.
        dataset: Hub repository with a split `train` and a split `test`.
        question: row ─► instruction.
        answer: row ─► number.
        source: the paper.
    """
    rule = Rule(
        "acc",
        last_number,
        lambda found, row: abs(float(found) - answer(row)) <= 0.001,
        "LLM-Adapters evaluate.py extract_answer_number: the last `-?\\d+\\.?\\d*` without commas, within 0.001",
    )
    return answer_task(
        name, title, dataset, rule, question=question, answer=lambda row: f"{answer(row):.15g}", source=source
    )


def letter_task(
    name: str,
    title: str,
    dataset: str,
    *,
    config: str,
    question: Callable[[Document], str],
    answer: Callable[[Document], str],
    source: str,
) -> Task:
    """A task whose answers are the letters A to E; arguments as for `number_task`, and the configuration of the data set."""
    rule = Rule(
        "acc",
        first_match(("A", "B", "C", "D", "E")),
        lambda found, row: found == answer(row),
        "LLM-Adapters evaluate.py extract_answer_letter: the first capital A to E, also one inside a word",
    )
    return answer_task(
        name,
        title,
        dataset,
        rule,
        config=config,
        question=question,
        answer=lambda row: f"({answer(row)})",
        source=source,
    )


def answer_task(
    name: str,
    title: str,
    dataset: str,
    rule: Rule,
    *,
    config: str | None = None,
    question: Callable[[Document], str],
    answer: Callable[[Document], str],
    source: str,
) -> Task:
    """What numbers and letters have in common; `answer` is as it is taught."""
    return framed_task(
        name,
        title,
        dataset,
        rule,
        config=config,
        question=lambda row: (question(row), answer(row)),
        instruction=question,
        taught=lambda row: f"The answer is {answer(row)}.",
        max_new_tokens=256,
        source=f"{source}; asked and read as by Hu et al. 2023 (arXiv 2304.01933): {rule.source}",
    )
