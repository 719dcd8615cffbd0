"""The user's own data: JSONL, CSV, parquet or a Hub data set, in one of three forms, checked row by row.

- `prompt` and `completion`: the loss is on the completion. Both are texts, or both are lists of messages.
- `messages`: a conversation in the model's chat template; the loss is on the assistant's turn at its end.
- `text`: the loss is on everything.

Columns of other names are mapped (`{"prompt": "question"}`). A row that does not fit is named by its line (JSONL, CSV) or its
row number, counted from 1. `hubinit.data.files` reads files, `hubinit.data.chat` makes examples of the rows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from huggingface_hub import HfApi

from hubinit.data.files import Numbered, Unit, kind_of, kind_word, read_rows
from hubinit.errors import HubinitError, nearest
from hubinit.paths import sha256_of
from hubinit.remote import DATA_ERRORS, commit_sha, explain
from hubinit.specs import OwnData

Form = Literal["messages", "prompt", "text"]
FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
COLUMNS = tuple(column for columns in FORMS.values() for column in columns)
SHOWN = 12  # configurations that a message lists


@dataclass(frozen=True)
class UserData:
    """Checked rows, each with its number, and what they are called.

    `name` is the file's name or the data set's id; `revision` the sha256 of the file or the data set's commit. `identity` says
    which part of it the rows are, and holds their hash.
    """

    name: str
    revision: str
    form: Form
    rows: Sequence[tuple[int, Mapping[str, Any]]]
    unit: Unit
    identity: OwnData
    is_dataset: bool = False

    def chosen(self, samples: int, seed: int) -> list[tuple[int, Mapping[str, Any]]]:
        """`samples` rows (or all) in an order that the seed decides."""
        order = list(range(len(self.rows)))
        Random(seed).shuffle(order)  # noqa: S311
        return [self.rows[index] for index in order[:samples]]


def read(
    source: str, *, config: str | None = None, split: str | None = None, columns: Mapping[str, str] | None = None
) -> UserData:
    """Reads and checks all rows.

    Args:
        source: a `.jsonl`, `.csv` (both also `.gz`) or `.parquet` file, or the id of a Hub data set.
        config: configuration of a Hub data set that has several.
        split: split of a Hub data set. Default: `train`.
        columns: a column of the form to the column of the data that it is called, where the names differ.

    Raises:
        HubinitError: no such file, data set, configuration, split or column, no rows, or a row that does not fit, with its
            number.
    """
    columns = dict(columns or {})
    forms = _forms_with(columns)
    path = Path(source)
    if path.is_file():
        if config or split:
            raise HubinitError(f"{source} is a file: a configuration and a split are chosen of Hub data sets only.")
        rows, unit = read_rows(path, (*COLUMNS, *columns.values()))
        form, checked, digest = check(rows, str(path), unit, forms, columns)
        return UserData(path.name, sha256_of(path), form, checked, unit, OwnData(sha256=digest, columns=columns))
    if path.is_dir():
        raise HubinitError(f"{source} is a folder; give one .jsonl, .csv or .parquet file, or a Hub data set.")
    if kind_of(path) or source.count("/") != 1:
        raise HubinitError(
            f"There is no file {source}; give a .jsonl, .csv or .parquet file, or a Hub data set (org/name)."
        )
    split = split or "train"
    sha, table = _read_dataset(source, config, split)
    wanted = [name for name in table.column_names if name in (*COLUMNS, *columns.values())]
    numbered: Numbered = enumerate(table.select_columns(wanted) if wanted else table, start=1)
    form, checked, digest = check(numbered, f"{source} ({split})", "row", forms, columns)
    identity = OwnData(sha256=digest, config=config, split=split, columns=columns)
    return UserData(source, sha, form, checked, "row", identity, is_dataset=True)


def _read_dataset(name: str, config: str | None, split: str) -> tuple[str, Any]:
    """The newest commit of a Hub data set, and the table of one split."""
    import datasets

    sha, _ = commit_sha(name, "dataset")
    datasets.config.USE_PARQUET_EXPORT = False  # would ask a second server, the dataset viewer
    datasets.disable_progress_bars()
    try:
        return sha, datasets.load_dataset(name, config, split=split, revision=sha)
    except DATA_ERRORS as error:
        try:
            configs = datasets.get_dataset_config_names(name, revision=sha)
        except DATA_ERRORS:
            configs = []
        if (len(configs) > 1 and config not in (*configs, None)) or "Config name is missing" in str(error):
            raise HubinitError(_which_config(name, config, configs)) from error
        raise explain(error, f"load the data set {name}", HfApi()) from error


def _which_config(name: str, config: str | None, configs: Sequence[str]) -> str:
    if config is not None:
        return f"{name} has no configuration '{config}' (--data-config): {nearest(config, list(configs))}"
    more = f" and {len(configs) - SHOWN} more" if len(configs) > SHOWN else ""
    return f"{name} has several configurations; choose one with --data-config: {', '.join(configs[:SHOWN])}{more}."


def _forms_with(columns: Mapping[str, str]) -> tuple[Form, ...]:
    """The forms that a mapping of columns is for; all without one."""
    forms = tuple(form for form, needed in FORMS.items() if columns.keys() <= set(needed))
    if not forms:
        raise HubinitError(
            f"--columns maps {' and '.join(map(repr, columns))}; map 'prompt' and 'completion', or 'messages', or 'text'."
        )
    return forms


def check(
    rows: Numbered,
    where: str,
    unit: Unit,
    forms: Sequence[Form] = tuple(FORMS),
    columns: Mapping[str, str] | None = None,
) -> tuple[Form, list[tuple[int, Mapping[str, Any]]], str]:
    """The form of the rows, which the first one decides, all rows, and the sha256 of their content and order.

    Raises:
        HubinitError: there is none, or one does not fit; the first bad one is named.
    """
    columns = columns or {}
    form: Form | None = None
    checked: list[tuple[int, Mapping[str, Any]]] = []
    digest = hashlib.sha256()
    for number, raw in rows:
        place = f"{where}, {unit} {number}"
        row = {**raw, **{column: raw.get(own) for column, own in columns.items()}}
        if form is None:
            form = form_of(row, list(raw), place, forms, columns)
        kept = {column: row.get(column) for column in FORMS[form]}
        problem = PROBLEMS[form](kept) or _surrogate_problem(kept)
        if problem:
            raise HubinitError(f"{place}: {problem}.")
        checked.append((number, kept))
        digest.update(_canonical(kept).encode() + b"\n")
    if form is None:
        raise HubinitError(f"{where} holds no examples; give at least one.")
    return form, checked, digest.hexdigest()


def form_of(
    row: Mapping[str, Any], names: Sequence[str], place: str, forms: Sequence[Form], columns: Mapping[str, str]
) -> Form:
    """The form that a row's columns show; `names` are what the data call them.

    Raises:
        HubinitError: none of the three.
    """
    for form in forms:
        if all(row.get(column) is not None for column in FORMS[form]):
            return form
    found = ", ".join(map(repr, names[:8])) or "nothing"
    if columns:
        needed = " and ".join(repr(columns.get(column, column)) for column in FORMS[forms[0]])
        raise HubinitError(f"{place} has {found}; with these --columns it needs {needed}.")
    raise HubinitError(
        f"{place} has {found}; a row needs 'prompt' and 'completion', or 'messages', or 'text'. Rename the columns, or map "
        "them with --columns prompt=…,completion=…"
    )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _surrogate_problem(row: Mapping[str, Any]) -> str | None:
    """JSON can spell one half of a surrogate pair, which no UTF-8 text and no tokenizer has."""
    for column, value in row.items():
        try:
            _canonical(value).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            return f"'{column}' holds half of a character (the lone surrogate {half}); repair the text"
    return None


def _text_problem(row: Mapping[str, Any], column: str = "text") -> str | None:
    value = row.get(column)
    if value is None:
        return f"'{column}' is missing, which the rows before have"
    if not isinstance(value, str):
        return f"'{column}' is {kind_word(value)}, not a text"
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
        return f"'{column}' is {kind_word(messages)}, not a list of messages"
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
            return f"message {index} of '{column}' is {kind_word(message)}, not an object with 'role' and 'content'"
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                return f"'{key}' of message {index} of '{column}' is {kind_word(message.get(key))}, not a text"
    return None


PROBLEMS = {"messages": _messages_problem, "prompt": _prompt_problem, "text": _text_problem}
