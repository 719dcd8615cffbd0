"""Where hubinit keeps its files, and how a file is hashed and written."""

import hashlib
import os
import threading
from pathlib import Path


def home() -> Path:
    """Where hubinit keeps wheels, calibrations and the embedded Hub: `HUBINIT_HOME`, else the user's cache folder."""
    if chosen := os.environ.get("HUBINIT_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubinit"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
