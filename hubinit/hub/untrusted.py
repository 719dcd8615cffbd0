"""Reading a parquet file that anyone may have written: its sizes first, then row by row against a model.

A few kilobytes can claim to be gigabytes. So what the file says about itself is held against limits before a page is read,
texts are read as dictionaries (a long one that all rows share stays one), and cells are cut before they become Python objects.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from hubinit.errors import first_line
from hubinit.leaderboard.rows import LONGEST, schema_of
from hubinit.leaderboard.table import frame
from hubinit.remote import redact
from hubinit.secrets import holds_secret
from hubinit.text import one_line

FILE_BYTES = 64_000_000  # of the file as it is stored
PAGE_BYTES = 100_000_000  # of its pages, uncompressed
TEXT_BYTES = 250_000_000  # of all its cells, which may share a page's texts
ROWS = 200_000
BAD_ROWS = 5_000
ROW_GROUPS = 2_000
COLUMNS = 500
BATCH = 5_000
CELL_BYTES = 4 * LONGEST + 1  # UTF-8: a longer cell is still too long when it is cut here
SHOWN = 300  # characters of a bad row's cell that are kept


class Unreadable(ValueError):
    """A file that cannot be read as the table at all; `ours`: its columns say that it was meant to be one."""

    def __init__(self, reason: str, *, ours: bool = False) -> None:
        super().__init__(reason)
        self.ours = ours


@dataclass(frozen=True)
class BadRow:
    """A row that is not what it should be: its cells, cut, and why."""

    row: dict[str, Any]
    reason: str

    @property
    def id(self) -> str:
        """Names its content; the same for the same row in every revision."""
        return hashlib.sha256(json.dumps(self.row, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Content:
    """What a file holds: the rows that are right, those that are not, and the columns that this version does not know."""

    rows: pd.DataFrame
    bad: tuple[BadRow, ...] = ()
    unknown: tuple[str, ...] = ()


def decode(content: bytes, model: type[BaseModel], required: tuple[str, ...]) -> Content:
    """The rows of a parquet file, each checked against `model`.

    Args:
        content: the file.
        model: of its rows.
        required: columns without which it is another table.

    Raises:
        Unreadable: it is not parquet, too large, another table, or has columns of another kind.
    """
    ours = False
    try:
        if len(content) > FILE_BYTES:
            raise Unreadable(f"it has {len(content)} bytes, more than {FILE_BYTES}")
        file = pq.ParquetFile(
            io.BytesIO(content), thrift_string_size_limit=1_000_000, thrift_container_size_limit=100_000
        )
        names = file.schema.names
        if len(names) > COLUMNS or len(set(names)) < len(names):
            raise Unreadable(f"it has {len(names)} columns, more than {COLUMNS} or two of one name")
        if missing := set(required) - set(names):
            raise Unreadable(f"it has no column {min(missing)}")
        ours = True
        known = [name for name in model.model_fields if name in names]
        _check_sizes(file.metadata, set(known))
        frames, bad = [], []
        for records in _batches(content, file, known):
            good, worse = split(records, model)
            frames.append(frame((row.model_dump() for row in good), schema_of(model)))
            bad += worse
            if len(bad) > BAD_ROWS:
                raise Unreadable(
                    f"more than {BAD_ROWS} of its rows are not what they should be, such as: {bad[0].reason}"
                )
        rows = pd.concat(frames, ignore_index=True) if frames else frame([], schema_of(model))
        unknown = sorted({one_line(name)[:50] for name in names} - set(known))
        return Content(rows, tuple(bad), tuple(unknown))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise Unreadable(redact(one_line(first_line(error)))[:SHOWN], ours=ours) from error


def split(records: Iterable[Mapping[str, Any]], model: type[BaseModel]) -> tuple[list[BaseModel], list[BadRow]]:
    """The rows that are what they should be, and the others."""
    good: list[BaseModel] = []
    bad: list[BadRow] = []
    for record in records:
        try:
            row = model.model_validate(record)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            bad.append(bad_row(record, one_line(f"{place}: {first['msg']}" if place else first["msg"])[:SHOWN]))
            continue
        if any(map(_holds_token, vars(row).values())):
            bad.append(bad_row(record, "it holds what looks like an access token"))
        else:
            good.append(row)
    return good, bad


def bad_row(record: Mapping[str, Any], reason: str) -> BadRow:
    """A row as it is kept in the quarantine: without nulls, its texts cut and without tokens."""
    return BadRow({name: _shown(value) for name, value in record.items() if value is not None}, reason)


@lru_cache(maxsize=4096)  # rows share most of their cells
def _holds_token(cell: object) -> bool:
    return isinstance(cell, str) and holds_secret(cell)


def _shown(cell: Any) -> Any:
    if isinstance(cell, (bool, int)) or (isinstance(cell, float) and math.isfinite(cell)):
        return cell
    text = cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "replace")
    return redact(text[: 4 * SHOWN].decode("utf-8", "replace"))[:SHOWN]  # no token is cut before it is looked for


def _check_sizes(metadata: pq.FileMetaData, known: set[str]) -> None:
    if metadata.num_rows > ROWS or metadata.num_row_groups > ROW_GROUPS:
        raise Unreadable(
            f"it has {metadata.num_rows} rows in {metadata.num_row_groups} groups, more than {ROWS} or {ROW_GROUPS}"
        )
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    sizes: dict[str, int] = {}
    for group in groups:
        for column in (group.column(index) for index in range(metadata.num_columns)):
            if column.path_in_schema in known:
                sizes[column.path_in_schema] = sizes.get(column.path_in_schema, 0) + column.total_uncompressed_size
            if column.num_values > ROWS:
                raise Unreadable(f"its column {column.path_in_schema} has {column.num_values} values")
    if sum(sizes.values()) > PAGE_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise Unreadable(f"its column {largest} has {sizes[largest]} bytes, more than {PAGE_BYTES} in all")


def _batches(content: bytes, file: pq.ParquetFile, known: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Its rows as dictionaries, some thousand at a time."""
    types = {name: file.schema_arrow.field(name).type for name in known}
    for name, kind in types.items():
        if not (_is_text(kind) or _is_number(kind)):
            raise Unreadable(f"its column {name} holds {str(kind)[:40]}")
    texts = [name for name, kind in types.items() if _is_text(kind)]
    reader = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    spent = 0
    for batch in reader.iter_batches(BATCH, columns=known, use_threads=False):
        columns = []
        for name in known:
            cells, size = _cells(batch.column(name))
            columns.append(cells)
            spent += size
        if spent > TEXT_BYTES:
            raise Unreadable(f"its texts have more than {TEXT_BYTES} bytes")
        yield [dict(zip(known, row, strict=True)) for row in zip(*columns, strict=True)]


def _cells(column: pa.Array) -> tuple[list[Any], int]:
    """The cells of a column, texts cut at `CELL_BYTES` and equal ones the same object, and how many bytes of text they are."""
    if not _is_text(column.type):
        return column.to_pylist(), 0
    encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    cut = pc.binary_slice(encoded.dictionary.cast(pa.large_binary()), 0, CELL_BYTES)
    texts = [_text(cell) for cell in cut.to_pylist()]
    size = pc.sum(pc.binary_length(cut).take(encoded.indices)).as_py() or 0
    return [None if index is None else texts[index] for index in encoded.indices.to_pylist()], size


def _text(cell: bytes | None) -> str | bytes | None:
    """A cell as text; one that is not UTF-8 stays as it is, which no model accepts."""
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return cell if len(cell or b"") < CELL_BYTES else "x" * CELL_BYTES  # cut within a character


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)
