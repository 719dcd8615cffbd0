"""Scoring answers that are already there, whoever produced them: no model, the same graders."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubinit.errors import HubinitError, first_line
from hubinit.scoring.evaluate import SCORERS
from hubinit.scoring.generation import hash_of
from hubinit.scoring.spec import Scored
from hubinit.specs import EvalSpec
from hubinit.tasks import get, harness, images, named, rows
from hubinit.tasks.spec import Document, Task

SEVERAL = ("code", "judge")  # scorers that read several outputs for a question


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
    owned = sum(line.document is not None for line in lines)
    if owned and (owned < len(lines) or documents is not None or limit is not None):
        raise HubinitError(
            "Where outputs bring their `document`, all of them must, and a limit or other documents mean nothing."
        )
    evaluation = EvalSpec(task=task, revision=revision, limit=limit, judge=judge if definition.judged else None)
    if owned:
        paired = own_documents(lines, definition)
        left = 0
    else:
        known = dict(documents) if documents is not None else questions_of(definition, evaluation)
        paired = pair(lines, known, task)
        left = len(known) - len(paired) if documents is None else 0
    samples = [[line.output] if isinstance(line.output, str) else line.output for line in lines]
    graded = grade(definition, paired, samples, evaluation)
    notes = list(graded.notes)
    if left:
        notes.append(f"{left} questions of the test split have no output.")
    if definition.scorer not in SEVERAL and any(len(several) > 1 for several in samples):
        notes.append("Only the first of several outputs for a question counts.")
    return Scored(graded.scores, graded.items, tuple(notes))


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
        if path.exists() and not path.is_file():
            raise HubinitError(f"{path} is not a file.")
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line ends may stand inside of a text
    except (OSError, UnicodeDecodeError) as error:
        raise HubinitError(f"{path} cannot be read: {first_line(error)}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
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
        json.dumps(output, ensure_ascii=False, default=str).encode()
        return Recorded.model_validate(output if isinstance(output, Mapping) else {"output": output})
    except UnicodeEncodeError as error:
        raise HubinitError(
            f"Output {number} cannot be scored: it holds half a character (a lone surrogate)."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise HubinitError(f"Output {number} cannot be scored: {place}: {problem['msg']}.") from error


def documents_of(outputs: Sequence[Mapping[str, Any]], task: str) -> dict[str, Document]:
    """The documents that recorded outputs bring, by the ids of their items.

    Raises:
        HubinitError: an output of another form, or two with one id.
    """
    return own_documents([checked(output, number) for number, output in enumerate(outputs, 1)], get(task))


def own_documents(lines: Sequence[Recorded], task: Task) -> dict[str, Document]:
    """The documents that the lines bring, by id; one that comes again without an id is numbered.

    Raises:
        HubinitError: two lines with one id.
    """
    own: dict[str, Document] = {}
    seen: Counter[str] = Counter()
    for line in lines:
        name = name_of(line, task)
        seen[name] += 1
        if line.id is not None and seen[name] > 1:
            raise HubinitError("Two outputs have the same id.")
        own[name if seen[name] == 1 else f"{name}-{seen[name]}"] = line.document or {}
    return own


def pair(lines: Sequence[Recorded], known: dict[str, Document], task: str) -> dict[str, Document]:
    """The question of each line, by id: the one that its id names, or the one at its place.

    Raises:
        HubinitError: a line without a question, two lines for one, or too few or too many lines.
    """
    named = [str(line.id) for line in lines if line.id is not None]
    if not named:
        if len(lines) != len(known):
            raise HubinitError(
                f"There are {len(lines)} outputs for {len(known)} questions of '{task}'; give each its `id`, or say "
                "with --limit how many of the first questions were asked."
            )
        return known
    if len(named) < len(lines):
        raise HubinitError("Some outputs have an `id` and some do not; give all of them one.")
    if len(set(named)) < len(named):
        raise HubinitError("Two outputs have the same id.")
    if strange := [name for name in named if name not in known]:
        raise HubinitError(f"'{task}' has no question with id {strange[0]!r} ({len(strange)} such outputs).")
    return {name: known[name] for name in named}


def name_of(line: Recorded, task: Task) -> str:
    """The id of a line that brings its document: what it says, what the task calls it, or a hash of it."""
    if line.id is not None:
        return str(line.id)
    if task.generative and task.generative.identify:
        with suppress(LookupError, TypeError):
            return task.generative.identify(line.document or {})
    return hash_of(json.dumps(line.document, sort_keys=True, default=str))


def questions_of(task: Task, evaluation: EvalSpec) -> dict[str, Document]:
    """The questions of a task by id, whatever it is made of."""
    if task.harness:
        documents = list(harness.load(task, evaluation.revision).eval_docs)[: evaluation.limit]
        return {str(index): document for index, document in enumerate(documents)}
    if task.kind == "vision":
        labels = list(images.split(task, task.test_split, evaluation.revision).rows[task.label_column])
        return {str(index): {task.label_column: label} for index, label in enumerate(labels[: evaluation.limit])}
    return rows.read_documents(task, evaluation.revision, evaluation.limit)
