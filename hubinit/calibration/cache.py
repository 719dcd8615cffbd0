"""Calibrations on disk, reused across methods, ranks and seeds."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from hubinit.calibration.result import FORMAT, MANIFEST, Calibration
from hubinit.errors import CalibrationError
from hubinit.numerics.statistics import Statistic
from hubinit.specs import key_of

LIMIT = TypeAdapter(ByteSize)


def cache_key(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of what a calibration depends on, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return key_of(text)


def load_or_compute(
    folder: str | Path,
    key: Mapping[str, Any],
    statistics: Iterable[Statistic],
    compute: Callable[[frozenset[Statistic]], Calibration],
) -> Calibration:
    """The calibration for a key, from disk where it is there, else computed and kept.

    A stored calibration with more statistics than asked for is used as it is; one that lacks some is completed: only the missing
    ones are computed, and merged in. A damaged one is computed again, with a warning. Writing is atomic.

    Args:
        folder: where calibrations are kept, one folder per key.
        key: what the statistics depend on: model id and revision, hash of the data, sample ids, options.
        statistics: what is needed.
        compute: gives a calibration with at least the statistics it is called with.
    """
    path = Path(folder) / cache_key({**key, "format": FORMAT})  # what an older hubinit left is not looked at
    needed = frozenset(statistics)
    stored: Calibration | None = None
    if (path / MANIFEST).exists():
        try:
            stored = Calibration.load(path)
        except CalibrationError as error:
            warnings.warn(f"{error} It is computed again.", stacklevel=2)
    missing = needed if stored is None else needed - stored.statistics
    if stored is not None and not missing:
        with suppress(OSError):
            (path / MANIFEST).touch()  # in use: `prune` begins with what was not used for longest
        return stored
    computed = compute(missing)
    if stored is not None:
        try:
            computed = stored.merge(computed)
        except CalibrationError as error:
            warnings.warn(f"{error} The stored calibration is replaced.", stacklevel=2)
            computed = compute(needed)
    try:
        computed.save(path)
        prune(Path(folder), keep=path)
    except OSError as error:  # a full disk costs the next run a pass, not this run its work
        warnings.warn(f"The calibration could not be kept in {path}: {error}.", stacklevel=2)
    return computed


def prune(folder: Path, keep: Path) -> None:
    """Deletes calibrations, the longest unused first, until all together are within `HUBINIT_CALIBRATIONS` (default 50 GB).

    One that another process is reading is computed again there, with a warning.

    Args:
        folder: where calibrations are kept.
        keep: the one that stays whatever its size.
    """
    asked = os.environ.get("HUBINIT_CALIBRATIONS", "50GB")
    try:
        limit = LIMIT.validate_python(asked)
    except ValidationError:
        raise CalibrationError(f"HUBINIT_CALIBRATIONS wants a size such as 50GB, not '{asked}'.") from None
    found = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda manifest: -manifest.stat().st_mtime)
    total = 0
    for manifest in found:
        with suppress(OSError):  # another process was faster
            total += sum(file.stat().st_size for file in manifest.parent.iterdir())
        if total > limit and manifest.parent != keep:
            shutil.rmtree(manifest.parent, ignore_errors=True)
