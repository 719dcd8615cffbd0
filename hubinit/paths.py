"""Where hubinit keeps its files, how a file is named, opened, hashed and written."""

import errno
import hashlib
import os
import stat
import threading
import unicodedata
from pathlib import Path
from typing import BinaryIO

MAX_NAME_BYTES = 200  # of one part: leaves room for the temporary name beside it
MAX_PATH_BYTES = 1000
_NOT_EVERYWHERE = frozenset('\\:*?"<>|')  # Windows gives them another meaning
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def home() -> Path:
    """Where hubinit keeps wheels, calibrations and the embedded Hub: `HUBINIT_HOME`, else the user's cache folder."""
    if chosen := os.environ.get("HUBINIT_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubinit"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_problem(name: str) -> str | None:
    """Why a file of a repo must not have this path, as in "{name} {problem}"; None when it may.

    A name is shown to people, joined to a folder and stored on other systems: it must be what it looks like, lie below the
    folder, and mean one file everywhere.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "does not lie in its folder"
    if not name.isprintable():
        return "has a name with control, invisible or bidirectional characters"
    if unicodedata.normalize("NFC", name) != name:
        return "has a name that is not in Unicode's composed form (NFC)"
    if len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "has a name that is too long"
    for part in parts:
        if _NOT_EVERYWHERE & set(part) or part != part.strip().rstrip(".") or part.split(".")[0].lower() in _DEVICES:
            return "has a name that means something else on other systems"
    return None


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read it; follows no link at its end, and does not wait for a pipe's other end.

    Raises:
        OSError: it is missing, or is not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def write_atomically(path: Path, content: bytes | str, *, mode: int = 0o666) -> None:
    """Writes a whole file that appears at once: readers see the old content or the new one, never a part.

    Args:
        path: the file, in a folder that is there.
        content: what it holds; text is written as UTF-8.
        mode: its permissions, from which the user's umask takes away; 0o600 for secrets.

    Raises:
        OSError: the folder is missing, or the disk is full; the old file is then untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.unlink(missing_ok=True)  # of a killed process that had this number
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Deletes what `write_atomically` left in a folder, and below it, when it was killed. Nobody may be writing there."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
