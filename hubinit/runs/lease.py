"""Who does which run: a lock per run, so that any number of sweeps on one folder share the work and do none of it twice.

A lease is a file in `leases/` of the store, locked with flock by the process that does the run. The system drops the lock when
that process ends, however it ends, so a crashed holder keeps nobody waiting. The file says who it is; what counts is the lock.

On a shared folder this holds where the file system passes locks between machines: NFS (4, or 3 with its lock service; the kernel
turns flock into a lock of the server), Lustre with `flock`, GPFS, CephFS. After a machine is lost, the server keeps its locks
for a while (NFS 4: 90 seconds). Where a file system has no locks, or keeps them to one machine (Lustre with `localflock`, sshfs,
object stores), two machines may do the same run; results are correct all the same, because they are written atomically.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """Who does a run, and since when."""

    host: str
    pid: int
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNNAMED = Holder("some machine", 0, "")  # it has the lock and has not written its name yet


@contextmanager
def leased(store: Path, key: str) -> Iterator[Holder | None]:
    """Holds the lease of a run inside the block.

    Args:
        store: the folder of results.
        key: of the run.

    Yields:
        None; or, where somebody else holds it, who that is.
    """
    path = lease_path(store, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    if descriptor is None:
        yield holder_of(store, key) or UNNAMED
        return
    try:
        me = Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        yield None
    finally:
        path.unlink(missing_ok=True)  # first: who opens it now sees another file than the one it waited for
        os.close(descriptor)


@contextmanager
def own_turn(store: Path, key: str, on_wait: Callable[[Holder], None]) -> Iterator[None]:
    """Waits for a lease and holds it inside the block; `on_wait` is told each second who has it."""
    while True:
        with leased(store, key) as holder:
            if holder is None:
                yield
                return
        on_wait(holder)
        time.sleep(1)


def _lock(path: Path) -> int | None:
    """An open, locked file; None where somebody else has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return descriptor
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the last holder has removed this file meanwhile


def holder_of(store: Path, key: str) -> Holder | None:
    """Who does a run just now; None where nobody does, whatever a crashed process left."""
    try:
        descriptor = os.open(lease_path(store, key), os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # it is locked; or nothing can be here, and the file is a sign
            return _read(file.read())
    return None


def holders(store: Path) -> dict[str, Holder]:
    """Who does which run just now, by key."""
    keys = [path.name for path in (store / "leases").glob("*")]
    return {key: holder for key in keys if (holder := holder_of(store, key)) is not None}


def lease_path(store: Path, key: str) -> Path:
    """Where the lease of a run lies."""
    return store / "leases" / key


def _read(content: bytes) -> Holder:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return UNNAMED
