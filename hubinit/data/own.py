"""The user's own data: JSONL, parquet or a Hub data set, in one of three forms, checked row by row.

- `prompt` and `completion`: the loss is on the completion. Both are texts, or both are lists of messages.
- `messages`: a conversation in the model's chat template; the loss is on the assistant's turn at its end.
- `text`: the loss is on everything.

A row that does not fit is named by its line (JSONL) or row number, counted from 1. `hubinit.data.chat` makes examples of them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from hubinit.errors import HubinitError
from hubinit.remote import DATA_ERRORS, commit_sha, explained

Form = Literal["messages", "prompt", "text"]
COLUMNS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
JSON_SUFFIXES, PARQUET_SUFFIXES = {".jsonl", ".ndjson", ".json"}, {".parquet"}
Numbered = Iterator[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class UserData:
    """Checked rows, each with its number, and what they are called.

    `name` is the file's name or the data set's id; `revision` the sha256 of the file or the data set's commit.
    """

    name: str
    revision: str
    form: Form
    rows: Sequence[tuple[int, Mapping[str, Any]]]
    unit: Literal["line", "row"]
    is_dataset: bool = False

    def chosen(self, samples: int, seed: int) -> list[tuple[int, Mapping[str, Any]]]:
        """`samples` rows (or all) in an order that the seed decides."""
        order = list(range(len(self.rows)))
        Random(seed).shuffle(order)  # noqa: S311
        return [self.rows[index] for index in order[:samples]]


def read(source: str, *, config: str | None = None, split: str = "train") -> UserData:
    """Reads and checks all rows.

    Args:
        source: a `.jsonl` or `.parquet` file, or the id of a Hub data set.
        config: configuration of a Hub data set that has several.
        split: split of a Hub data set.

    Raises:
        HubinitError: no such file or data set, no rows, or a row that does not fit, with its number.
    """
    path = Path(source)
    if path.is_file():
        return read_file(path)
    if path.is_dir():
        raise HubinitError(f"{source} is a folder; give one .jsonl or .parquet file, or a Hub data set.")
    if path.suffix in JSON_SUFFIXES | PARQUET_SUFFIXES or source.count("/") != 1:
        raise HubinitError(f"There is no file {source}; give a .jsonl or .parquet file, or a Hub data set (org/name).")
    return read_dataset(source, config, split)


def read_file(path: Path) -> UserData:
    """Reads and checks a JSONL or parquet file.

    Raises:
        HubinitError: as `read`.
    """
    unit: Literal["line", "row"]
    if path.suffix in JSON_SUFFIXES:
        rows, unit = json_lines(path), "line"
    elif path.suffix in PARQUET_SUFFIXES:
        rows, unit = parquet_rows(path), "row"
    else:
        raise HubinitError(f"{path} is neither .jsonl nor .parquet; convert it to one of them.")
    form, checked = check(rows, str(path), unit)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return UserData(path.name, digest, form, checked, unit)


def read_dataset(name: str, config: str | None, split: str) -> UserData:
    """Reads and checks a split of a Hub data set, at its newest commit.

    Raises:
        HubinitError: as `read`.
    """
    import datasets
    from huggingface_hub import HfApi

    sha, _ = commit_sha(name, "dataset")
    datasets.config.USE_PARQUET_EXPORT = False  # would ask a second server, the dataset viewer
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(name, config, split=split, revision=sha)
    except DATA_ERRORS as error:
        raise explained(error, f"load the data set {name}", HfApi()) from error
    wanted = [column for columns in COLUMNS.values() for column in columns if column in table.column_names]
    if wanted:
        table = table.select_columns(wanted)
    form, checked = check(enumerate(table, start=1), f"{name} ({split})", "row")
    return UserData(name, sha, form, checked, "row", is_dataset=True)


def json_lines(path: Path) -> Numbered:
    """The objects of a JSONL file with their line numbers; empty lines are passed over.

    Raises:
        HubinitError: a line is not UTF-8 or not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is not JSON ({error})"
                raise HubinitError(f"{path}, line {number} {reason}; give one JSON object per line.") from None
            if not isinstance(row, dict):
                raise HubinitError(
                    f"{path}, line {number} is {_kind(row)}, not a JSON object; give one object per line, not one list of all."
                )
            yield number, row


def parquet_rows(path: Path) -> Numbered:
    """The rows of a parquet file with their numbers; only columns that can be used are read.

    Raises:
        HubinitError: it is not a parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        known = [column for columns in COLUMNS.values() for column in columns]
        names = file.schema_arrow.names
        wanted = [name for name in names if name in known] or names
        number = 0
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowInvalid, OSError) as error:
        raise HubinitError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error


def check(rows: Numbered, where: str, unit: str) -> tuple[Form, list[tuple[int, Mapping[str, Any]]]]:
    """The form of the rows, which the first one decides, and all rows.

    Raises:
        HubinitError: there is none, or one does not fit; the first bad one is named.
    """
    form: Form | None = None
    checked: list[tuple[int, Mapping[str, Any]]] = []
    for number, row in rows:
        place = f"{where}, {unit} {number}"
        if form is None:
            form = form_of(row, place)
        problem = PROBLEMS[form](row)
        if problem:
            raise HubinitError(f"{place}: {problem}.")
        checked.append((number, {column: row[column] for column in COLUMNS[form]}))
    if form is None:
        raise HubinitError(f"{where} holds no examples; give at least one.")
    return form, checked


def form_of(row: Mapping[str, Any], place: str) -> Form:
    """The form that a row's columns show.

    Raises:
        HubinitError: none of the three.
    """
    for form, columns in COLUMNS.items():
        if all(row.get(column) is not None for column in columns):
            return form
    found = ", ".join(map(repr, list(row)[:8])) or "nothing"
    raise HubinitError(
        f"{place} has {found}; a row needs 'prompt' and 'completion', or 'messages', or 'text'. Rename the columns."
    )


def _text_problem(row: Mapping[str, Any], column: str = "text") -> str | None:
    value = row.get(column)
    if value is None:
        return f"'{column}' is missing, which the rows before have"
    if not isinstance(value, str):
        return f"'{column}' is {_kind(value)}, not a text"
    return None if value.strip() else f"'{column}' is empty"


def _prompt_problem(row: Mapping[str, Any]) -> str | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation_problem(prompt, "prompt") or _messages_problem({"messages": completion}, "completion")
    if isinstance(prompt, str) and not prompt.strip():
        return _text_problem(row, "completion")  # a completion alone is fine
    return _text_problem(row, "prompt") or _text_problem(row, "completion")


def _messages_problem(row: Mapping[str, Any], column: str = "messages") -> str | None:
    messages = row.get("messages")
    if messages is None:
        return f"'{column}' is missing, which the rows before have"
    if not isinstance(messages, list):
        return f"'{column}' is {_kind(messages)}, not a list of messages"
    problem = _conversation_problem(messages, column)
    if problem:
        return problem
    last = messages[-1]
    if last["role"] != "assistant":
        return (
            f"'{column}' ends with the role '{last['role']}'; the last message must be the assistant's, which is learnt"
        )
    return None if last["content"].strip() else f"the last message of '{column}' is empty"


def _conversation_problem(messages: list[Any], column: str) -> str | None:
    if not messages:
        return f"'{column}' is an empty list"
    for index, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            return f"message {index} of '{column}' is {_kind(message)}, not an object with 'role' and 'content'"
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                return f"'{key}' of message {index} of '{column}' is {_kind(message.get(key))}, not a text"
    return None


PROBLEMS = {"messages": _messages_problem, "prompt": _prompt_problem, "text": _text_problem}


def _kind(value: Any) -> str:
    names = {type(None): "missing", str: "a text", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")
