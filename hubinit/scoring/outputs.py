"""Scoring answers that are already there, whoever produced them: no model, the same graders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubinit.errors import HubinitError, first_line
from hubinit.scoring.evaluate import SCORERS
from hubinit.scoring.spec import Scored
from hubinit.specs import EvalSpec
from hubinit.tasks import get, harness, images, named, rows
from hubinit.tasks.spec import Document, Task


class Recorded(BaseModel):
    """One line of a file of outputs. Fields that other tools add are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    output: str | Annotated[list[str], Field(min_length=1)]
    id: str | int | None = None
    document: dict[str, Any] | None = None


def score_outputs(
    task: str,
    outputs: Sequence[str | Sequence[str] | Mapping[str, Any]],
    documents: Mapping[str, Document] | None = None,
    *,
    revision: str | None = None,
    limit: int | None = None,
    judge: str | None = None,
) -> Scored:
    """Scores recorded answers of any tool, as `hubinit eval` scores a model's.

    Args:
        task: name of the task.
        outputs: a text each, a list of k samples each, or mappings with `output` and, unless they follow the order of the
            test split, `id` or `document`.
        documents: the questions with their references, by id. Default: the task's test split.
        revision: of the data set.
        limit: only the first documents of the test split.
        judge: model that rates the answers, where the task needs one.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: an unknown task, one that is not scored by outputs, or outputs that do not fit the documents.
    """
    definition = gradable(task)
    grade = SCORERS[definition.scorer].grade
    assert grade is not None
    lines = [checked(output, number) for number, output in enumerate(outputs, 1)]
    if not lines:
        raise HubinitError(f"There are no outputs to score on '{task}'.")
    evaluation = EvalSpec(task=task, revision=revision, limit=limit, judge=judge if definition.judged else None)
    paired = pair(lines, documents, definition, evaluation)
    samples = [[line.output] if isinstance(line.output, str) else line.output for line in lines]
    return grade(definition, paired, samples, evaluation)


def gradable(name: str) -> Task:
    """The task of this name, if outputs say anything about it.

    Raises:
        HubinitError: an unknown task, or one that is scored by log-likelihoods.
    """
    task = get(name)
    if SCORERS[task.scorer].grade is None or (task.harness and not task.rules):
        how = "inside lm-eval" if named.is_named(name) else "by log-likelihoods"
        raise HubinitError(f"Task '{name}' is scored {how}, so recorded outputs say nothing about it.")
    return task


def read_outputs(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON Lines file of outputs; empty lines are passed over.

    Raises:
        HubinitError: it is missing or a line is not a JSON object.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise HubinitError(f"{path} cannot be read: {first_line(error)}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise HubinitError(f"Line {number} of {path} is not JSON: {first_line(error)}.") from error
        if not isinstance(found[-1], dict):
            raise HubinitError(f"Line {number} of {path} is not a JSON object with `output`.")
    return found


def checked(output: Any, number: int) -> Recorded:
    """One output in the one form.

    Raises:
        HubinitError: it is neither text, nor a list of texts, nor an object with `output`.
    """
    try:
        return Recorded.model_validate(output if isinstance(output, Mapping) else {"output": output})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise HubinitError(f"Output {number} cannot be scored: {place}: {problem['msg']}.") from error


def pair(
    lines: Sequence[Recorded], documents: Mapping[str, Document] | None, task: Task, evaluation: EvalSpec
) -> dict[str, Document]:
    """The document of each line, by id: its own, the one that its id names, or the one at its place in the test split.

    Raises:
        HubinitError: a line without a document, two lines for one, or too few or too many lines.
    """
    if documents is None and all(line.document is not None for line in lines):
        documents = {
            str(index if line.id is None else line.id): line.document or {} for index, line in enumerate(lines)
        }
        if len(documents) < len(lines):
            raise HubinitError("Two outputs have the same id.")
        return dict(documents)
    known = dict(documents) if documents is not None else questions_of(task, evaluation)
    named = [str(line.id) for line in lines if line.id is not None]
    if not named:
        if len(lines) != len(known):
            raise HubinitError(
                f"There are {len(lines)} outputs for {len(known)} questions of '{task.name}'; give each its `id`, or say "
                "with --limit how many of the first questions were asked."
            )
        return known
    if len(named) < len(lines):
        raise HubinitError("Some outputs have an `id` and some do not; give all of them one.")
    if len(set(named)) < len(named):
        raise HubinitError("Two outputs have the same id.")
    if strange := [name for name in named if name not in known]:
        raise HubinitError(f"'{task.name}' has no question with id {strange[0]!r} ({len(strange)} such outputs).")
    return {name: known[name] for name in named}


def questions_of(task: Task, evaluation: EvalSpec) -> dict[str, Document]:
    """The questions of a task by id, whatever it is made of."""
    if task.harness:
        documents = list(harness.load(task, evaluation.revision).eval_docs)[: evaluation.limit]
        return {str(index): document for index, document in enumerate(documents)}
    if task.kind == "vision":
        labels = list(images.split(task, task.test_split, evaluation.revision).rows[task.label_column])
        return {str(index): {task.label_column: label} for index, label in enumerate(labels[: evaluation.limit])}
    return rows.read_documents(task, evaluation.revision, evaluation.limit)
