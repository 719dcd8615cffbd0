"""MT-bench: two turns of every question, rated by a judge from 1 to 10, as FastChat's llm_judge does."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubinit.errors import HubinitError
from hubinit.records import Item, Score
from hubinit.scoring.chat_client import Messages, Reply
from hubinit.scoring.generation import hash_of
from hubinit.scoring.judge import find_judge, judge_all
from hubinit.scoring.mt_bench_files import Template, read_references, read_templates
from hubinit.scoring.spec import Progress, Scored, Scorer, mean_score
from hubinit.scoring.two_turns import Question, answer_all, read_questions
from hubinit.specs import EvalSpec
from hubinit.tasks import mt_bench, rows
from hubinit.tasks.spec import Document, Task

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")  # FastChat, llm_judge/common.py: one_score_pattern
SECOND_CHOICE = re.compile(r"\[(\d+\.?\d*)\]")  # one_score_pattern_backup
LOWEST, HIGHEST = 1.0, 10.0
TURNS = ("turn-1", "turn-2")


def score_answers(
    task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> Scored:
    """Lets the model answer both turns of every question, and the judge rate them.

    Raises:
        HubinitError: options that the task does not know, a context that is too short, or a judge that fails.
    """
    if evaluation.shots or evaluation.samples not in (None, 1):
        raise HubinitError(
            f"Task '{task.name}' asks each question once, in its own words; leave out --shots and --samples."
        )
    documents = rows.read_documents(task, evaluation.revision, evaluation.limit)
    questions = read_questions(task, documents)
    # All that rating needs, before hours of answers that nobody would rate.
    find_judge(evaluation.judge)
    read_templates(task)
    read_references(task, questions)
    total = 4 * len(questions)
    answers, hashes = answer_all(
        task, model, tokenizer, questions, batch_size=batch_size, on_progress=lambda done: on_progress(done, total)
    )
    graded = rate_answers(task, documents, answers, evaluation, lambda done: on_progress(total // 2 + done, total))
    items = [item.model_copy(update={"prompt_hash": digest}) for item, digest in zip(graded.items, hashes, strict=True)]
    return Scored(graded.scores, items)


def grade_answers(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """Lets the judge rate recorded answers: two for each question."""
    return rate_answers(task, documents, outputs, evaluation, lambda done: None)


def rate_answers(
    task: Task,
    documents: Mapping[str, Document],
    outputs: Sequence[Sequence[str]],
    evaluation: EvalSpec,
    on_progress: Callable[[int], None],
) -> Scored:
    """Two judgements of each question.

    Raises:
        HubinitError: answers or documents of another form, or a judge that fails or rates nothing.
    """
    judge = find_judge(evaluation.judge)
    questions = read_questions(task, documents)
    for question, answers in zip(questions, outputs, strict=True):
        if len(answers) != 2:
            raise HubinitError(
                f"Question {question.question_id} of '{task.name}' has {len(answers)} answer(s); `output` must be a list of two."
            )
    templates, references = read_templates(task), read_references(task, questions)
    asked = [
        judge_prompt(templates, question, answers, references.get(question.question_id, ()), turn)
        for question, answers in zip(questions, outputs, strict=True)
        for turn in range(2)
    ]
    replies = judge_all(judge, asked, on_progress)
    items = [
        item_of(key, question, outputs[i], asked[2 * i : 2 * i + 2], replies[2 * i : 2 * i + 2])
        for i, (key, question) in enumerate(zip(documents, questions, strict=True))
    ]
    scores = scores_of(items, questions, task, evaluation)
    versions = ", ".join(sorted({reply.version for reply in replies} - {""})) or None
    return Scored([score.model_copy(update={"judge_version": versions}) for score in scores], items)


def judge_prompt(
    templates: Mapping[str, Template], question: Question, answers: Sequence[str], references: Sequence[str], turn: int
) -> Messages:
    """What the judge is told about one turn (0 or 1). Nothing in an answer is taken for a part of the template.

    Raises:
        HubinitError: there is not such a template, or it asks for something else.
    """
    name = ("single-math-v1" if question.with_reference else "single-v1") + ("-multi-turn" if turn else "")
    texts = {
        "question": question.turns[0],
        "answer": answers[0],
        **{f"question_{i}": text for i, text in enumerate(question.turns, 1)},
        **{f"answer_{i}": text for i, text in enumerate(answers, 1)},
        **{f"ref_answer_{i}": text for i, text in enumerate(references, 1)},
    }
    try:
        template = templates[name]
        told = re.sub(r"\{(\w+)\}", lambda match: texts[match[1]], template.prompt_template)
    except KeyError as error:
        raise HubinitError(f"{mt_bench.JUDGE_PROMPTS} is not usable: the prompt '{name}' lacks {error}.") from error
    return [{"role": "system", "content": template.system_prompt}, {"role": "user", "content": told}]


def rating_of(judgement: str) -> float | None:
    """The first `[[n]]`, else the first `[n]`; None where there is none, or where it is not from 1 to 10.

    FastChat writes -1 for none and leaves it out of every mean; it does not look at the range.
    """
    found = RATING.search(judgement) or SECOND_CHOICE.search(judgement)
    value = float(found[1]) if found else 0.0
    return value if LOWEST <= value <= HIGHEST else None


def item_of(
    key: str, question: Question, answers: Sequence[str], asked: Sequence[Messages], replies: Sequence[Reply]
) -> Item:
    """One question with its ratings; `score` is the mean of those that there are."""
    ratings = {name: rating_of(reply.text) for name, reply in zip(TURNS, replies, strict=True)}
    usable = {name: rating for name, rating in ratings.items() if rating is not None}
    mean = sum(usable.values()) / len(usable) if usable else None
    summary = {} if mean is None else {"score": mean, f"score,{question.category}": mean}
    said = [
        {"prompt": hash_of(messages[-1]["content"]), "version": reply.version, "text": reply.text}
        for messages, reply in zip(asked, replies, strict=True)
    ]
    return Item(
        id=key,
        outputs=tuple(answers),
        extracted={name: f"{rating:g}" for name, rating in usable.items()},
        values=summary | usable,
        detail=json.dumps(said, ensure_ascii=False),
    )


def scores_of(items: Sequence[Item], questions: Sequence[Question], task: Task, evaluation: EvalSpec) -> list[Score]:
    """The mean over questions, of both turns, of each turn and of each category; with the share of unusable judgements.

    Raises:
        HubinitError: the judge rated nothing.
    """
    everything = list(zip(items, questions, strict=True))
    if not any(item.values for item in items):
        raise HubinitError(
            f"The judge {evaluation.judge} gave no rating from 1 to 10 to any of {2 * len(items)} answers to '{task.name}'."
        )
    parts = {"score": (everything, TURNS), **{turn: (everything, (turn,)) for turn in TURNS}}
    for category in dict.fromkeys(question.category for question in questions):
        own = [(item, question) for item, question in everything if question.category == category]
        parts[f"score,{category}"] = (own, TURNS)
    return [
        mean_score(
            values,
            task=task,
            metric=metric,
            primary=metric == task.primary,
            evaluation=evaluation,
            invalid_rate=1
            - sum(turn in item.extracted for item, _ in pairs for turn in turns) / (len(pairs) * len(turns)),
        )
        for metric, (pairs, turns) in parts.items()
        if (values := [item.values[metric] for item, _ in pairs if metric in item.values])
    ]


JUDGE = Scorer(
    name="judge",
    title="a judge (another model) rates both answers of each question from 1 to 10",
    score=score_answers,
    grade=grade_answers,
    verdicts=False,
)
