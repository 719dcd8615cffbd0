"""Image classification data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, overload

from hubinit.data.encode import ImageExample
from hubinit.errors import HubinitError
from hubinit.tasks.rows import load_rows
from hubinit.tasks.spec import Task


@dataclass(frozen=True)
class ImageSplit:
    """One split of an image task; images are decoded one by one on request."""

    task: Task
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, row: int) -> ImageExample:
        """One image with its class."""
        values = self.rows[row]
        return ImageExample(values[self.task.image_column], int(values[self.task.label_column]))


@dataclass(frozen=True)
class ImageExamples(Sequence[ImageExample]):
    """Chosen rows of a split, decoded when they are looked at: large data sets do not fit into memory as pixels."""

    split: ImageSplit
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImageExample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageExamples": ...
    def __getitem__(self, index: int | slice) -> "ImageExample | ImageExamples":
        if isinstance(index, slice):
            return ImageExamples(self.split, self.rows[index])
        return self.split.example(self.rows[index])


def training_split(task: Task, revision: str | None) -> ImageSplit:
    """The split that training and validation examples are drawn from."""
    return split(task, task.train_split, revision)


@cache
def split(task: Task, name: str, revision: str | None) -> ImageSplit:
    """One split of the task's data set.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: it has no such columns.
    """
    rows = load_rows(task, name, revision)
    missing = {task.image_column, task.label_column} - set(rows.column_names)
    if missing:
        raise HubinitError(f"The data set {task.dataset} has no column {' or '.join(sorted(missing))}.")
    return ImageSplit(task, rows)


def class_names(task: Task, revision: str | None) -> list[str]:
    """The names of the classes in the order of their indices; plain numbers when the data set has no names."""
    rows = split(task, task.train_split, revision).rows
    names = getattr(rows.features[task.label_column], "names", None)
    if names:
        return list(names)
    return [str(index) for index in range(max(rows[task.label_column]) + 1)]
