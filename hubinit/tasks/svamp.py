"""SVAMP: one-step problems whose wording was varied."""

from hubinit.tasks.numeric import number_task
from hubinit.tasks.spec import Document


def question(row: Document) -> str:
    """Story and question as one text; most stories lack their last point."""
    body = row["Body"].strip()
    return f"{body}{'' if body.endswith(('.', '?', '!')) else '.'} {row['Question'].strip()}"


TASK = number_task(
    "svamp",
    "SVAMP",
    "ChilleD/SVAMP",
    question=question,
    answer=lambda row: float(row["Answer"]),
    source="Patel et al. 2021 (arXiv 2103.07191)",
)
