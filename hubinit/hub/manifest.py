"""What may go into an adapter repo, and reading the `hubinit.json` that others wrote."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from hubinit.errors import HubError
from hubinit.paths import name_problem, open_regular, sha256_of
from hubinit.records import ITEMS, MANIFEST, Manifest
from hubinit.remote import known_tokens, redact
from hubinit.secrets import holds_secret, is_credentials
from hubinit.text import one_line

CARD = "README.md"
ALLOWED_SUFFIXES = {".safetensors", ".json", ".yaml", ".yml"}
ALLOWED_NAMES = {CARD, "LICENSE", ".gitattributes"}
ALLOWED_HIDDEN_FOLDERS = {".eval_results"}
MAX_TEXT_BYTES = 64 << 20  # twice the largest tokenizer.json that people keep beside an adapter
MAX_ROWS_BYTES = 8 * MAX_TEXT_BYTES  # of unpacked item records
MAX_HEADER_BYTES = 100_000_000  # safetensors refuses longer ones
IN_MEMORY_BYTES = 10 << 20  # above this every file is stored as LFS, where the Hub checks the sha256 that it was told


@dataclass(frozen=True)
class Weights:
    """A large safetensors file that was checked, and the sha256 of the bytes that were."""

    path: Path
    sha256: str


Content = bytes | Weights  # small files are held in memory: what was checked is what is sent


def read_manifest(text: bytes | str, where: str) -> Manifest:
    """Reads a `hubinit.json` that others wrote, and whose files are to be read.

    Raises:
        HubError: it is not one, or it lists a file that hubinit never publishes.
    """
    manifest = parse_manifest(text, where)
    for name in manifest.files:
        if reason := refusal(name):
            raise HubError(
                f"{MANIFEST} of {where} lists {_shown(name)}, which hubinit never publishes: it {reason}; do not use it."
            )
    return manifest


def parse_manifest(text: bytes | str, where: str) -> Manifest:
    """Reads a `hubinit.json` that others wrote; the names in `files` may be anything.

    Raises:
        HubError: it is not one.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise HubError(f"{MANIFEST} of {where} cannot be used: it is larger than {MAX_TEXT_BYTES >> 20} MB.")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = one_line(f"{place}: {first['msg']}")  # others wrote it
        raise HubError(
            f"{MANIFEST} of {where} cannot be used ({reason}); it is damaged or of a newer hubinit."
        ) from error


def list_files(folder: Path) -> dict[str, Content]:
    """Reads the files of `folder` that may be published, by their path in the repo.

    Nothing is opened before every name and kind of file in the folder is known to be harmless.

    Raises:
        HubError: something is in there that must not be published: an unexpected file, a link, a pipe or device, a file
            that is not what its name says, a JSON of more than 64 MB, or text or a name that looks like an access token.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; give the folder that holds the adapter.")
    try:
        names = sorted(_names(folder))
        if not names:
            raise HubError(f"{folder} is empty; there is nothing to publish.")
        return {name: read_checked(folder / name, name) for name in names}
    except OSError as error:
        raise HubError(f"{error.filename or folder} cannot be read ({error.strerror or error}).") from error


def content_hash(content: Content | Path) -> str:
    """Hex sha256 of a file or of bytes; that of checked weights is known."""
    if isinstance(content, Weights):
        return content.sha256
    return sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def read_checked(path: Path, name: str) -> Content:
    """Reads a file that is to be published under this name.

    Raises:
        HubError: it is not what its name says, is too large, or holds what looks like an access token.
        OSError: it is not a regular file, or cannot be read.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                pass  # the header was read and fits the file
        except (SafetensorError, OSError) as error:
            raise HubError(f"{name} is not a safetensors file; save it again as safetensors.") from error
        with open_regular(path) as file:
            return _read_weights(file, path, name)
    with open_regular(path) as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise HubError(
            f"{name} is larger than {MAX_TEXT_BYTES >> 20} MB, which is too large for text beside an adapter; "
            "move it out of the folder."
        )
    if path.suffix == ".parquet":
        _check_rows(content, name)
        return content
    try:
        text = content.decode()
        if "\0" in text:
            raise ValueError("binary, or UTF-16")
        if path.suffix == ".json":
            json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HubError(f"{name} is not readable text (or JSON); repair it before publishing.") from error
    check_text(text, name)
    return content


def check_text(text: str, name: str) -> None:
    """Refuses text that holds an access token.

    Raises:
        HubError: it does; the message does not repeat it.
    """
    if holds_secret(text, known_tokens()):
        raise HubError(f"{name} holds what looks like an access token; remove it (and revoke it) before publishing.")


def _names(folder: Path) -> Iterator[str]:
    """The files below a folder; nothing is followed or opened."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        for entry in (*folders, *files):
            path = Path(root, entry)
            name = path.relative_to(folder).as_posix()
            where, mode = f"{_shown(name)} in {folder}", path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise HubError(f"{where} is a link; publish the file itself.")
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise HubError(f"{where} is not a file but a pipe, a socket or a device; move it out of the folder.")
            if reason := refusal(name):
                raise HubError(f"{where} {reason}; move it out of the folder.")
            yield name


def refusal(name: str) -> str | None:
    """Why a file of this name never goes into an adapter repo, as in "it {reason}"; None when it may."""
    parts = PurePosixPath(name).parts
    if problem := name_problem(name):
        return problem
    if is_credentials(name):
        return "is where programs keep credentials"
    if holds_secret(name, known_tokens()):
        return "has a name that looks like an access token"
    hidden = any(part.startswith(".") and part not in ALLOWED_HIDDEN_FOLDERS for part in parts[:-1])
    allowed = {*ALLOWED_SUFFIXES, ".parquet"} if parts[:-1] == (ITEMS,) else ALLOWED_SUFFIXES
    expected = parts[-1] in ALLOWED_NAMES or (PurePosixPath(name).suffix in allowed and not parts[-1].startswith("."))
    if hidden or not expected:
        return f"is not a file that hubinit publishes (safetensors, JSON, YAML, {CARD})"
    return None


def _shown(name: str) -> str:
    """A name that others chose, made safe to print: odd characters as escapes, tokens masked."""
    return redact(name if name.isprintable() else ascii(name)[1:-1])


def _check_rows(content: bytes, name: str) -> None:
    """Checks the text in a parquet file; what it would unpack to is known, and bounded, before it is."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MAX_ROWS_BYTES:
            raise HubError(f"{name} unpacks to more than {MAX_ROWS_BYTES >> 20} MB; move it out of the folder.")
        for batch in file.iter_batches():
            text = json.dumps(batch.to_pylist(), ensure_ascii=False, default=str)
            if any(token in text for token in known_tokens()):  # what a model made up is nobody's secret
                raise HubError(f"{name} holds an access token of yours; remove it (and revoke it) before publishing.")
    except (pa.ArrowException, ValueError, OSError) as error:
        raise HubError(f"{name} is not a parquet file that can be read; move it out of the folder.") from error


def _read_weights(file: BinaryIO, path: Path, name: str) -> Content:
    """Checks the header, which holds the names and the metadata, and hashes the very same bytes."""
    length = file.read(8)
    header = file.read(min(int.from_bytes(length, "little"), MAX_HEADER_BYTES))
    check_text(header.decode(errors="replace"), name)
    if os.fstat(file.fileno()).st_size <= IN_MEMORY_BYTES:
        return length + header + file.read(IN_MEMORY_BYTES)
    digest = hashlib.sha256(length + header)
    while block := file.read(1 << 20):
        digest.update(block)
    return Weights(path, digest.hexdigest())
