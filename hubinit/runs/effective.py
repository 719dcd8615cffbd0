"""The whole effective configuration of a sweep, as it is stored: `sweeps/*.json` of the store, one for each configuration.

That of a single run is the `spec` in its result.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hubinit.paths import write_atomically
from hubinit.records import ResultStore
from hubinit.runs.plan import PlannedRun, Request
from hubinit.specs import OF_OPTIMISER, canonical, key_of

FOLDER = "sweeps"  # in a store


def write_sweep(
    store: ResultStore, request: Request, planned: Sequence[PlannedRun], command: str, **settings: Any
) -> Path:
    """Writes what a sweep is made of; the same configuration has the same file.

    Args:
        store: of its results.
        request: what was asked for.
        planned: its runs; of a search those that it starts from.
        command: line that started it.
        settings: what else decides about it, such as the budget in seconds.
    """
    request = request.completed()
    protocol = request.read_protocol()
    # What is set for each run, or read by other optimisers, is refused in a file: without it the protocol is one.
    unread = {name for name, reader in OF_OPTIMISER.items() if reader not in protocol.optimisers}
    left_out: Any = {"calibration": {"samples"}, "recipe": {"optimiser", *unread}}
    effective = {
        "request": {name: value for name, value in asdict(request).items() if value is not None},
        "protocol": protocol.model_dump(mode="json", exclude=left_out),
        "settings": settings,
        "runs": [run.spec.key for run in planned],
    }
    path = store.root / FOLDER / f"{key_of(canonical(effective, without=frozenset()))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"command": command} | effective, indent=1, default=str) + "\n")
    return path
