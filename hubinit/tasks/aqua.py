"""AQuA-RAT: algebra with five choices."""

from hubinit.tasks.numeric import letter_task
from hubinit.tasks.spec import Document


def question(row: Document) -> str:
    """The question with its choices as LLM-Adapters writes them; a choice is `A)21` in the data."""
    choices = (option.partition(")")[::2] for option in row["options"])
    return f"{row['question']} Answer Choices: {' '.join(f'({letter}) {text}' for letter, text in choices)}"


TASK = letter_task(
    "aqua",
    "AQuA",
    "deepmind/aqua_rat",
    config="raw",
    question=question,
    answer=lambda row: str(row["correct"]),
    source="Ling et al. 2017 (arXiv 1705.04146)",
)
