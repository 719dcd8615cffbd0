"""The judge's prompts and the reference answers of MT-bench: two files of FastChat's, at one commit, known by their sha256.

The public Hub has no data set of them. So they come from a data set where somebody serves one, else from FastChat's repository,
and wherever they come from, they are checked: a judge with other words gives other ratings.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import is_offline_mode
from pydantic import BaseModel, ConfigDict, ValidationError

from hubinit.errors import HubError, HubinitError, first_line
from hubinit.paths import home, write_atomically
from hubinit.scoring.two_turns import Question
from hubinit.tasks import mt_bench, rows
from hubinit.tasks.facts import refuse_drift
from hubinit.tasks.spec import Document, Task

SECONDS = 30.0  # for a file


class Template(BaseModel):
    """One prompt of the judge; `{name}` in it stands for a text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    system_prompt: str
    prompt_template: str


@dataclass(frozen=True)
class Official:
    """One file.

    Attributes:
        path: in FastChat's folder of llm_judge's data.
        sha256: of its content.
        line: row of a data set ─► the object on the file's line.
        row: the other way.
    """

    path: str
    sha256: str
    line: Callable[[Document], Mapping[str, Any]]
    row: Callable[[Mapping[str, Any]], Document]


PROMPT_FIELDS = ("name", "type", "system_prompt", "prompt_template", "description", "category", "output_format")
PROMPTS = Official(
    path="judge_prompts.jsonl",
    sha256="fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
    line=lambda row: {name: row[name] for name in PROMPT_FIELDS},
    row=lambda line: line,
)
ANSWERS = Official(
    path="mt_bench/reference_answer/gpt-4.jsonl",
    sha256="f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    line=lambda row: {
        **{name: row[name] for name in ("question_id", "answer_id", "model_id")},
        "choices": [{"index": 0, "turns": list(row["turns"])}],
        "tstamp": row["tstamp"],
    },
    row=lambda line: {**line, "turns": line["choices"][0]["turns"]},
)


def read_templates(task: Task) -> dict[str, Template]:
    """The prompts of the judge, by name.

    Raises:
        HubinitError: they cannot be had, or are not the official ones.
    """
    try:
        found = read_official(task, mt_bench.JUDGE_PROMPTS, PROMPTS)
        return {str(row["name"]): Template.model_validate(row) for row in found}
    except (KeyError, ValidationError) as error:
        raise HubinitError(f"{mt_bench.JUDGE_PROMPTS} does not hold the prompts of MT-bench's judge.") from error


def read_references(task: Task, questions: Sequence[Question]) -> dict[int, Sequence[str]]:
    """The reference answers of the questions that need some, by their numbers.

    Raises:
        HubinitError: they cannot be had, are not the official ones, or one is missing.
    """
    wanted = [question.question_id for question in questions if question.with_reference]
    if not wanted:
        return {}
    try:
        found: dict[int, Sequence[str]] = {
            row["question_id"]: tuple(row["turns"]) for row in read_official(task, mt_bench.REFERENCES, ANSWERS)
        }
    except (KeyError, TypeError) as error:
        raise HubinitError(f"{mt_bench.REFERENCES} does not hold reference answers of MT-bench.") from error
    for number in wanted:
        if len(found.get(number, ())) != 2:
            raise HubinitError(f"{mt_bench.REFERENCES} has no reference answers to question {number}, which need some.")
    return found


def read_official(task: Task, dataset: str, official: Official) -> list[Document]:
    """The rows of a data set that holds one of the files, else of the file itself.

    Args:
        task: whose data they are.
        dataset: Hub id, or a local folder, whose content is its owner's own business.
        official: what it must hold.

    Raises:
        HubinitError: neither can be had, or the data set holds something else.
    """
    try:
        found = list(rows.load_rows(replace(task, dataset=dataset, config=None), "train", None))
    except HubError as error:
        if Path(dataset).is_dir():
            raise
        lines = read_file(dataset, official, error).decode().splitlines()
        return [official.row(json.loads(line)) for line in lines]
    if not Path(dataset).is_dir() and digest_of(found, official) != official.sha256:
        refuse_drift(
            f"The data set {dataset} does not hold FastChat's {official.path}, by which a judge of '{task.name}' works"
        )
    return found


def digest_of(found: Sequence[Document], official: Official) -> str:
    """The sha256 of rows as FastChat's file has them; "" for rows of another form."""
    try:
        text = "".join(json.dumps(official.line(row)) + "\n" for row in found)
    except (KeyError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def read_file(dataset: str, official: Official, missing: HubError) -> bytes:
    """The file as it was kept, else from FastChat's repository; it is kept then.

    Raises:
        HubinitError: it cannot be had, or is another; the message says what else there is to do.
    """
    kept, url = home() / "mt-bench" / Path(official.path).name, mt_bench.FASTCHAT + official.path
    try:
        if kept.is_file():
            return checked(kept.read_bytes(), official)
        if is_offline_mode():
            raise ValueError("this machine is offline")
        answer = httpx2.get(url, timeout=SECONDS, follow_redirects=True)
        answer.raise_for_status()
        content = checked(answer.content, official)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, content)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise HubError(
            f"{str(missing).rstrip('.')}; nor can FastChat's file be had ({first_line(error)}): save {url} as {kept}, or "
            f"serve a copy of {dataset} (hubinit hub seed --from DIR)."
        ) from missing
    return content


def checked(content: bytes, official: Official) -> bytes:
    """The content of the file.

    Raises:
        ValueError: it is another.
    """
    if hashlib.sha256(content).hexdigest() != official.sha256:
        raise ValueError("its sha256 is not the known one")
    return content
