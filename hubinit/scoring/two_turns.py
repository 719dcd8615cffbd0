"""Questions of two turns, and the answers of a model to them; the second turn sees the first answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hubinit.data.chat import chat_prompt
from hubinit.scoring.generation import generate, hash_of
from hubinit.scoring.spec import wrong_document
from hubinit.tasks import mt_bench
from hubinit.tasks.spec import Document, Task

# For a model without a chat template; nothing in it is special to any model.
USER, ASSISTANT = "### User:\n", "### Assistant:\n"


class Question(BaseModel):
    """One document of the task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question_id: int
    category: str
    turns: tuple[str, str]

    @property
    def with_reference(self) -> bool:
        """Whether the judge is shown the right answers."""
        return self.category in mt_bench.WITH_REFERENCE


def read_questions(task: Task, documents: Mapping[str, Document]) -> list[Question]:
    """The documents as questions.

    Raises:
        HubinitError: one of them is not one.
    """
    questions = []
    for key, document in documents.items():
        try:
            questions.append(Question.model_validate(dict(document)))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise wrong_document(task, key, f"{place}: {problem['msg']}") from error
    return questions


def answer_all(
    task: Task,
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    batch_size: int,
    on_progress: Callable[[int], None],
) -> tuple[list[list[str]], list[str]]:
    """Two answers to each question; the second turn sees the first answer.

    Returns:
        The answers, and what names the prompt of each first turn.
    """
    assert task.generative is not None
    answers: list[list[str]] = [[] for _ in questions]
    hashes = ["" for _ in questions]
    done = 0
    for _ in range(2):
        for temperature in sorted({temperature_of(question) for question in questions}):
            chosen = [i for i, question in enumerate(questions) if temperature_of(question) == temperature]
            opened = [open_turn(questions[i], answers[i], tokenizer) for i in chosen]
            decoding = replace(task.generative.decoding, temperature=temperature)
            if not has_template(tokenizer):
                decoding = replace(decoding, stop=(USER,))
            outputs = generate(
                model,
                tokenizer,
                opened,
                decoding,
                batch_size=batch_size,
                on_progress=lambda now, total, before=done: on_progress(before + now),  # type: ignore[misc]
            )
            done += len(chosen)
            for i, prompt, (text,) in zip(chosen, opened, outputs, strict=True):
                answers[i].append(text.strip())
                hashes[i] = hashes[i] or hash_of(prompt if isinstance(prompt, str) else tokenizer.decode(prompt))
    return answers, hashes


def temperature_of(question: Question) -> float:
    """That of the question's category."""
    return mt_bench.TEMPERATURES.get(question.category, 0.0)


def has_template(tokenizer: Any) -> bool:
    """Whether the model has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def open_turn(question: Question, answers: Sequence[str], tokenizer: Any) -> str | tuple[int, ...]:
    """What the model is given: the conversation so far in its chat template, or in a plain frame where it has none."""
    asked = question.turns[: len(answers) + 1]
    if not has_template(tokenizer):
        spoken = [f"{text}\n\n" for text in answers] + [""]
        return "".join(f"{USER}{text}\n\n{ASSISTANT}{answer}" for text, answer in zip(asked, spoken, strict=True))
    messages = [{"role": "user", "content": asked[0]}]
    for answer, text in zip(answers, asked[1:], strict=True):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": text}]
    return chat_prompt(messages, tokenizer)
