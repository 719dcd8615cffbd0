"""Rows of the user's files with their numbers: JSONL, CSV (both also gzipped) and parquet."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hubinit.errors import HubinitError, first_line

Kind = Literal["json", "csv", "parquet"]
Unit = Literal["line", "row"]
Numbered = Iterable[tuple[int, Mapping[str, Any]]]
KINDS: dict[str, Kind] = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def kind_of(path: Path) -> Kind | None:
    """What a file is by its name, `.gz` aside; None for other names."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    kind = KINDS.get(name.suffix.lower())
    return None if kind == "parquet" and name is not path else kind  # parquet compresses by itself


def read_rows(path: Path, wanted: Collection[str]) -> tuple[Numbered, Unit]:
    """The rows of a file, each with its line or row number counted from 1, and which of both it is.

    Args:
        path: an existing file.
        wanted: of a parquet file, only these columns are read (all, where it has none of them).

    Raises:
        HubinitError: a file of another kind; while the rows are read, one that is broken, with its number.
    """
    kind = kind_of(path)
    if kind == "json":
        return json_rows(path), "line"
    if kind == "csv":
        return csv_rows(path), "line"
    if kind == "parquet":
        return parquet_rows(path, wanted), "row"
    raise HubinitError(
        f"{path} is neither .jsonl, .csv (or one of them with .gz) nor .parquet; convert it to one of them."
    )


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers; `.gz` is unpacked.

    Raises:
        HubinitError: a line is not UTF-8, or the file is not what its name says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise HubinitError(f"{path}, line {number} is not UTF-8 text; save the file as UTF-8.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise HubinitError(f"{path} cannot be unpacked as gzip: {first_line(error)}.") from error


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSONL file with their line numbers; empty lines are passed over.

    Raises:
        HubinitError: a line is not UTF-8 or not a JSON object.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"is not JSON ({first_line(error)})"
            raise HubinitError(f"{path}, line {number} {reason}; give one JSON object per line.") from None
        if not isinstance(row, dict):
            raise HubinitError(
                f"{path}, line {number} is {kind_word(row)}, not a JSON object; give one object per line, not one list of all."
            )
        yield number, row


def csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a CSV file whose first row names the columns, with the number of the line where each begins.

    Raises:
        HubinitError: a line is not UTF-8, or a row has another number of cells than the header.
    """
    csv.field_size_limit(sys.maxsize)  # texts are longer than its default of 128 KiB
    table = csv.reader((line for _, line in text_lines(path)), strict=True)
    header: list[str] = []
    begins = 1
    try:
        for cells in table:
            if len(cells) > len(header) > 0:
                raise HubinitError(
                    f"{path}, line {begins} has more cells than the header; put texts with commas in double quotes."
                )
            if cells and header:
                yield begins, dict(zip(header, cells, strict=False))
            header = header or cells
            begins = table.line_num + 1
    except csv.Error as error:
        raise HubinitError(f"{path}, line {begins} is not CSV: {first_line(error)}.") from error


def parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a parquet file with their numbers; only `wanted` columns are read, or all where it has none of them.

    Raises:
        HubinitError: it is not a parquet file.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        number = 0
        for batch in file.iter_batches(columns=[name for name in names if name in wanted] or names):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowInvalid, OSError) as error:
        raise HubinitError(f"{path} cannot be read as parquet: {first_line(error)}.") from error


def kind_word(value: Any) -> str:
    """What a JSON value is, in a word or two."""
    names = {type(None): "missing", str: "a text", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")
