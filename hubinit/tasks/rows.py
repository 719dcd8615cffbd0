"""Rows of data sets as the documents and training examples of tasks that ask by themselves."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from huggingface_hub import HfApi

from hubinit.data.encode import Example
from hubinit.errors import HubError
from hubinit.remote import DATA_ERRORS, explain
from hubinit.tasks.facts import check_split
from hubinit.tasks.spec import Document, Generative, Task


@dataclass(frozen=True)
class RowSplit:
    """The training rows of a generative task, rendered one by one on request."""

    generative: Generative
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, row: int) -> Example:
        """The prompt and completion of one row."""
        return self.generative.training(self.rows[row])


def training_split(task: Task, revision: str | None) -> RowSplit:
    """The split that training and validation examples are drawn from.

    Raises:
        HubError: the data set cannot be had.
    """
    assert task.generative is not None
    return RowSplit(task.generative, load_training(task, revision))


@cache
def load_training(task: Task, revision: str | None) -> Any:
    """The training rows of a task, less those that it does not keep.

    Raises:
        HubError: the data set cannot be had.
    """
    rows = load_joined(task, task.train_configs, task.train_split, revision)
    if task.generative is None or task.generative.keep is None:
        return rows
    return rows.select([index for index, row in enumerate(rows) if task.generative.keep(row)])


def read_documents(task: Task, revision: str | None, limit: int | None = None) -> dict[str, Document]:
    """The first `limit` documents of the test split, by id.

    Raises:
        HubError: the data set cannot be had.
    """
    asks = task.generative
    rows = list(load_joined(task, task.test_configs, task.test_split, revision))
    documents = (asks.group(rows) if asks and asks.group else rows)[:limit]
    identify = asks.identify if asks else None
    return {identify(document) if identify else str(index): document for index, document in enumerate(documents)}


def load_joined(task: Task, configs: tuple[str, ...], split: str, revision: str | None) -> Any:
    """One split of several configurations, one after the other; of the task's own where there are none.

    Raises:
        HubError: the data set cannot be had.
    """
    import datasets

    parts = [load_rows(replace(task, config=name), split, revision) for name in configs or (task.config,)]
    return datasets.concatenate_datasets(parts)


@cache
def load_rows(task: Task, split: str, revision: str | None) -> Any:
    """One split of a task's data set.

    Raises:
        HubError: the data set cannot be had, or is another than the original.
    """
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # would ask a second server, the dataset viewer
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(task.dataset, task.config, split=split, revision=revision)
    except DATA_ERRORS as error:
        raise data_error(task, error) from error
    check_split(task, split, len(rows), rows.column_names)
    return rows


def data_error(task: Task, error: Exception) -> HubError:
    """The one sentence for a data set that cannot be loaded."""
    return explain(error, f"load the data set {task.dataset} of task '{task.name}'", HfApi())
