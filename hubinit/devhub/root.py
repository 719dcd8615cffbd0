"""The root folder as a place on disk: only its owner's, in use by some processes, cleared of what killed ones left."""

import fcntl
import os
import shutil
import time
from pathlib import Path

from .blobs import make_private

OURS = ("blobs", "commits", "repos", "lfs", "tokens", "secret", "lock")


def take(root: Path) -> int:
    """Make a root, close it to other users of the machine, and mark it as in use.

    A folder that was there before keeps its own permissions; what the Hub keeps in it does not.

    Returns:
        The descriptor of a file that holds the mark, until it is closed or the process dies, however it dies.
    """
    make_private(root)
    for path in (root / name for name in OURS):
        if path.exists() and path.stat().st_mode & 0o077:  # of an earlier version
            path.chmod(path.stat().st_mode & 0o700)
    mark = os.open(root / "in-use", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(mark, fcntl.LOCK_SH)
    return mark


def sweep(root: Path, mark: int, *, upload_seconds: float) -> None:
    """Remove what killed processes left, when nobody else uses the root: files that were being written, and uploads in parts.

    The parts of an upload stay for as long as its addresses are valid, for a client may go on with a new server.

    Args:
        root: the folder.
        mark: what `take` gave; without files of its own yet.
        upload_seconds: how long the addresses of an upload are valid.
    """
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        incoming = root / "blobs" / "incoming"
        unfinished = [path for name in OURS for path in [*root.glob(f".{name}.*.tmp"), *(root / name).rglob(".*.tmp")]]
        for path in [*incoming.iterdir(), *unfinished]:
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif time.time() - path.stat().st_mtime > upload_seconds:
                shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        fcntl.flock(mark, fcntl.LOCK_SH)  # a failed try has lost it
