"""MT-bench: 80 questions with a follow-up each; a judge rates both answers from 1 to 10.

The judge's prompts and the reference answers are files of FastChat's, see `scoring/mt_bench_files.py`. The Hub's copy of the
questions numbers them in its own way, so they get their official numbers back, which the reference answers go by.
"""

from collections.abc import Sequence

from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.tasks.spec import Decoding, Document, Generative, Task

# FastChat's files, at the last commit of its main branch
FASTCHAT = "https://raw.githubusercontent.com/lm-sys/FastChat/587d5cfa1609a43d192cedb8441cac3c17db105d/fastchat/llm_judge/data/"
# The same as data sets, where a Hub has them
REFERENCES = "lmsys/mt_bench_reference_answers"  # columns question_id, turns
JUDGE_PROMPTS = "lmsys/mt_bench_judge_prompts"  # columns name, system_prompt, prompt_template
FIRST = 81  # number of the first question; the others follow
# FastChat, llm_judge/common.py: temperature_config and NEED_REF_CATS.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}  # the others: 0
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})


def number_questions(rows: Sequence[Document]) -> list[Document]:
    """The questions under their official numbers, with FastChat's names."""
    return [
        {"question_id": number, "category": row["category"], "turns": list(row["prompt"])}
        for number, row in enumerate(rows, FIRST)
    ]


def refuse_training(row: Document) -> Example:
    """There is nothing to learn from a question without an answer.

    Raises:
        HubinitError: always.
    """
    raise HubinitError("MT-bench has no answers to train on.")


TASK = Task(
    name="mt-bench",
    title="MT-bench",
    kind="language",
    dataset="HuggingFaceH4/mt_bench_prompts",
    train_split="",
    test_split="train",  # its only one
    scorer="judge",
    question=lambda question: ("\n".join(question["turns"]), ""),
    needs="a judge (--judge-model)",
    primary="score",
    generative=Generative(
        prompt=lambda question: str(question["turns"][0]),
        training=refuse_training,
        decoding=Decoding(max_new_tokens=1024),
        group=number_questions,
        identify=lambda question: str(question["question_id"]),
    ),
    source="Zheng et al. 2023 (arXiv 2306.05685), lm-sys/FastChat llm_judge: two turns in the model's chat template (a model "
    "without one: in the frame `### User:`, `### Assistant:`), temperature 0.7 for writing and roleplay, 0.1 for stem and "
    "humanities, else 0; prompts single-v1 and single-math-v1 with their multi-turn forms; the first [[n]] of a judgement, else "
    "its first [n]; judgements without a rating from 1 to 10 are left out of the mean",
)
