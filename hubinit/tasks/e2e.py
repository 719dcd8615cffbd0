"""E2E NLG: a restaurant's description from its attributes; one meaning representation has many references."""

import re
from collections.abc import Sequence
from itertools import groupby

from hubinit.data.encode import Example
from hubinit.tasks.questions import free_text
from hubinit.tasks.spec import Decoding, Document, Generative, Task

NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}  # as LoRA's files call them


def linearise(meaning: str) -> str:
    """`name[X], eatType[Y]` ─► `name : X | Type : Y`, as LoRA's data files have it."""
    return " | ".join(
        f"{NAMES.get(name, name)} : {value}" for name, value in re.findall(r"(\w[\w ]*)\[(.*?)\]", meaning)
    )


def prompt(document: Document) -> str:
    """The attributes and the separator of LoRA's data files, whose code puts an end-of-text token in its place."""
    return f"{linearise(document['meaning_representation'])} ||"


def group(rows: Sequence[Document]) -> list[Document]:
    """One document per run of equal meaning representations, as the official scripts group their references."""
    return [
        {"meaning_representation": meaning, "references": [row["human_reference"] for row in same]}
        for meaning, same in groupby(rows, key=lambda row: row["meaning_representation"])
    ]


TASK = Task(
    name="e2e",
    title="E2E NLG",
    kind="language",
    dataset="tuetschek/e2e_nlg",
    train_split="train",
    test_split="test",
    scorer="e2e",
    question=free_text("meaning_representation"),
    primary="bleu",
    needs="hubinit[e2e] and Java for METEOR, ROUGE-L and CIDEr",
    generative=Generative(
        prompt=prompt,
        training=lambda row: Example(prompt(row), f" {row['human_reference']}"),
        decoding=Decoding(max_new_tokens=64, beams=10, length_penalty=0.8, no_repeat_ngram=4, stop=("\n",)),
        group=group,
    ),
    source="Dusek et al. 2020 (arXiv 1901.07931): BLEU, NIST, METEOR, ROUGE-L and CIDEr of tuetschek/e2e-metrics over the 630 "
    "meaning representations of the test split; attributes and beam search as in microsoft/LoRA (Hu et al. 2021, arXiv "
    "2106.09685)",
)
