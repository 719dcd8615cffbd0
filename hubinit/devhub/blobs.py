"""Content-addressed bytes on disk, and the two primitives that make writes durable: replace atomically, sync before promising."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from hubinit.paths import write_atomically

from .refusals import bad_request

CHUNK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: IO[bytes]) -> None:
    """Make the bytes of an open file survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, and those above it that are missing."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, and make its folder when missing.

    A reader, or a machine that dies, sees the old file or the new one.
    """
    make_private(path.parent)
    write_atomically(path, content, mode=0o600)
    sync_folder(path.parent)


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a mebibyte at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def git_oid(size: int, content: Iterable[bytes]) -> str:
    """The name git gives to a file with this content."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in content:
        digest.update(chunk)
    return digest.hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The small text that git holds in place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Blobs:
    """Immutable files named by the sha256 of their content, in one folder."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder; `incoming/` beside the content holds what is being written."""
        self.root = root
        self.incoming = root / "incoming"
        make_private(self.incoming)

    def path(self, sha256: str) -> Path:
        """Where the content of this hash is, or would be."""
        return self.root / sha256[:2] / sha256

    def put(self, content: Iterable[bytes], *, expected: str | None = None) -> tuple[str, int]:
        """Store bytes.

        Args:
            content: the bytes in pieces.
            expected: the sha256 they were announced to have; anything else is not kept.

        Returns:
            Their sha256 and how many they are.

        Raises:
            Refusal: (400) they are not what was announced.
        """
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self.incoming, delete=False) as file:
            try:
                for chunk in content:
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                if expected not in (None, digest.hexdigest()):
                    raise bad_request("The bytes received do not have the announced sha256.")
                sync_file(file)
                self.adopt(Path(file.name), digest.hexdigest())
            finally:
                Path(file.name).unlink(missing_ok=True)
        return digest.hexdigest(), size

    def adopt(self, written: Path, sha256: str) -> None:
        """Move a complete, synced file with this hash into its place; nothing happens when the content is there already."""
        place = self.path(sha256)
        if place.exists():
            written.unlink()
            return
        make_private(place.parent)
        written.chmod(0o400)
        written.replace(place)
        sync_folder(place.parent)
