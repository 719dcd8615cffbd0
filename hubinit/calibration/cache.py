"""Calibrations on disk, reused across methods, ranks and seeds."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hubinit.calibration.result import FORMAT, MANIFEST, Calibration
from hubinit.errors import CalibrationError
from hubinit.numerics.statistics import Statistic


def cache_key(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of what a calibration depends on, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    except OSError as error:  # a full disk costs the next run a pass, not this run its work
        warnings.warn(f"The calibration could not be kept in {path}: {error}.", stacklevel=2)
    return computed
