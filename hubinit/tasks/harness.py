"""Language tasks through lm-eval's own definitions: the one truth about prompts, for training as for scoring."""

import logging
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from hubinit.data.encode import Example
from hubinit.remote import DATA_ERRORS
from hubinit.tasks.facts import check_split
from hubinit.tasks.rows import data_error
from hubinit.tasks.spec import Task


@dataclass(frozen=True)
class TrainingSplit:
    """The training documents of a task, rendered one by one on request."""

    definition: Any
    documents: Any

    def __len__(self) -> int:
        return len(self.documents)

    def example(self, row: int) -> Example:
        """The prompt that lm-eval scores and its right answer, for one document."""
        return render(self.definition, self.documents[row])


def training_split(task: Task, revision: str | None) -> TrainingSplit:
    """The task's training documents.

    Raises:
        HubError: the data set cannot be had, or its training split is another than the original.
    """
    definition = load(task, revision)
    check(task, definition, task.train_split)
    return TrainingSplit(definition, definition.training_docs())


@cache
def load(task: Task, revision: str | None) -> Any:
    """lm-eval's task object, with its data at the given revision.

    Raises:
        HubError: the data set cannot be had, or its test split is another than the original.
    """
    import datasets
    import lm_eval.tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.config.USE_PARQUET_EXPORT = False  # would ask a second server, the dataset viewer
    settings: dict[str, Any] = {
        "include": str(Path(lm_eval.tasks.__file__).parent / task.definition),
        "task": task.harness,
        "dataset_path": task.dataset,
        "dataset_name": task.config,
        "training_split": task.train_split,
    }
    if revision is not None:
        settings["dataset_kwargs"] = {"revision": revision}
    try:
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # its progress bars
            file = Path(folder) / "task.yaml"  # lm-eval takes overrides of its own tasks only from a file
            file.write_text(yaml.safe_dump(settings), encoding="utf-8")
            loaded = lm_eval.tasks.TaskManager(include_defaults=False).load([str(file)])
    except DATA_ERRORS as error:
        raise data_error(task, error) from error
    definition = loaded["tasks"][task.harness]
    check(task, definition, task.test_split)
    return definition


def check(task: Task, definition: Any, split: str) -> None:
    """Refuses a split that is not the original's, see `facts.check_split`."""
    rows = definition.dataset[split]
    check_split(task, split, len(rows), rows.column_names)


def render(definition: Any, document: dict[str, Any]) -> Example:
    """One document as prompt and completion, in the form in which lm-eval scores it."""
    delimiter = definition.config.target_delimiter
    text, target = definition.doc_to_text(document), definition.doc_to_target(document)
    if definition.OUTPUT_TYPE != "multiple_choice":
        return Example(text, f"{delimiter}{target}")
    choices = definition.doc_to_choice(document)
    if definition.multiple_input:  # WinoGrande: the choices are prompts, the completion is common to them
        return Example(choices[text], f"{delimiter}{target}")
    return Example(text, f"{delimiter}{choices[target] if isinstance(target, int) else target}")
