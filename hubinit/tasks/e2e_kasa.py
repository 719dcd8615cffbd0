"""E2E NLG with KaSA's prompt; all else is as in `e2e`."""

from dataclasses import replace

from hubinit.data.encode import Example
from hubinit.tasks import e2e
from hubinit.tasks.spec import Document


def prompt(document: Document) -> str:
    """The meaning representation as it is, under KaSA's headings."""
    return f"### Context : {document['meaning_representation']}\n### Completion :"


assert e2e.TASK.generative is not None
TASK = replace(
    e2e.TASK,
    name="e2e-kasa",
    title="E2E NLG (KaSA's prompt)",
    generative=replace(
        e2e.TASK.generative,
        prompt=prompt,
        training=lambda row: Example(prompt(row), f" {row['human_reference']}"),
    ),
    source=f"{e2e.TASK.source}, but the prompt as in KaSA (Wang et al. 2024, arXiv 2412.06071)",
)
