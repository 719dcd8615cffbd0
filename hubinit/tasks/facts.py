"""What the original data sets hold: a split that is loaded under their name must have their columns and their rows."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from hubinit.errors import HubError
from hubinit.tasks.spec import Task

ALLOW_DRIFT = "HUBINIT_ALLOW_DRIFT"  # in the environment, which worker processes inherit; set by `--allow-drift`


@dataclass(frozen=True)
class Facts:
    """One data set.

    Attributes:
        columns: of all its splits.
        rows: configuration ─► split ─► how many.
    """

    columns: list[str]
    rows: dict[str, dict[str, int]]


@cache
def registry() -> dict[str, Facts]:
    """The facts of `registry/datasets.yaml` by Hub id."""
    text = (files("hubinit") / "registry" / "datasets.yaml").read_text(encoding="utf-8")
    return {name: Facts(**entry) for name, entry in yaml.safe_load(text).items()}


def known_rows(task: Task, split: str) -> int | None:
    """How many rows a split of the task's data set has; None where nobody has established it."""
    facts = registry().get(task.dataset)
    return facts.rows.get(task.config or "default", {}).get(split) if facts else None


def training_rows(task: Task) -> int | None:
    """How many rows a task's training splits have together; None where nobody has established it, or there are none."""
    return joined_rows(task, task.train_configs, task.train_split)


def scored_rows(task: Task) -> int | None:
    """How many rows a task's test splits have together; None where nobody has established it."""
    return joined_rows(task, task.test_configs, task.test_split)


def joined_rows(task: Task, configs: Sequence[str], split: str) -> int | None:
    """How many rows one split of several configurations has together; None where nobody has established it."""
    counts = [known_rows(replace(task, config=name), split) for name in configs or (task.config,)]
    return None if None in counts else sum(count or 0 for count in counts)


def check_split(task: Task, split: str, rows: int, columns: Sequence[str]) -> None:
    """Refuses a split that is not the original's; a local folder is its owner's own business.

    Args:
        task: whose data set it is, in which configuration.
        split: that was loaded.
        rows: that it has.
        columns: that it has.

    Raises:
        HubError: it differs, and drift is not allowed; with `ALLOW_DRIFT` in the environment it is a warning.
    """
    facts = registry().get(task.dataset)
    if facts is None or Path(task.dataset).is_dir():
        return
    found = list(differences(facts, columns, rows, known_rows(task, split)))
    if not found:
        return
    where = f"{split} of {task.dataset}" + (f" ({task.config})" if task.config else "")
    message = f"The split {where} is not the one that task '{task.name}' is about: {', '.join(found)}"
    refuse_drift(message)


def refuse_drift(message: str) -> None:
    """Refuses data that are not the original ones, or warns where the user allows them.

    Args:
        message: which data, and what they should be or how they differ.

    Raises:
        HubError: drift is not allowed.
    """
    if os.environ.get(ALLOW_DRIFT) != "1":
        raise HubError(f"{message}. Scores on it cannot be compared; --allow-drift goes on all the same.")
    logging.getLogger(__name__).warning("%s; it is used because of --allow-drift.", message)


def differences(facts: Facts, columns: Sequence[str], rows: int, expected: int | None) -> Iterator[str]:
    """What is not as it should be, in words."""
    if expected is not None and rows != expected:
        yield f"it has {rows} rows instead of {expected}"
    if missing := [name for name in facts.columns if name not in columns]:
        yield f"it has no column {' or '.join(missing)}"
    if strange := [name for name in columns if name not in facts.columns]:
        yield f"its column {' and '.join(strange[:5])} is not known"
