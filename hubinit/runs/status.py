"""Where the runs of a folder are, for a process that does none of them: from results, leases and what sweeps wrote down."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.lease import Holder, holders
from hubinit.runs.progress import Snapshot, read_rows, read_snapshots, written_at
from hubinit.runs.stored import StoredIndex
from hubinit.runs.tally import COUNTED, NO_SUCCESS, Doing, Row
from hubinit.runs.words import cells_of, group_of


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        row: its key and cells.
        state: one of `COUNTED`, but for `cached` and `elsewhere`.
        reason: why it failed, diverged, or is partial.
        doing: how far it is, where its sweep said so.
        holder: the process that does it.
    """

    row: Row
    state: str
    reason: str | None = None
    doing: Doing | None = None
    holder: Holder | None = None


@dataclass(frozen=True)
class SweepStatus:
    """A sweep, as it last wrote about itself, and whether its process lives. `left`: its runs that are still to be done."""

    snapshot: Snapshot
    alive: bool
    left: int


@dataclass(frozen=True)
class Status:
    """All runs of a folder, and the sweeps that are going on or left something."""

    runs: tuple[RunStatus, ...]
    sweeps: tuple[SweepStatus, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state that occurs."""
        found = Counter(run.state for run in self.runs)
        return {state: found[state] for state in COUNTED if found[state]}

    @property
    def seconds_left(self) -> float | None:
        """Until the last of the sweeps that are alive has done its own; None where none of them knows."""
        known = [one.snapshot.seconds_left for one in self.sweeps if one.alive]
        return max((seconds for seconds in known if seconds is not None), default=None)

    @property
    def going_on(self) -> bool:
        """Whether anybody works here."""
        return any(sweep.alive for sweep in self.sweeps) or any(run.state == "running" for run in self.runs)


def read_status(folder: Path) -> Status:
    """Looks at all files of a folder that say something about its runs.

    Raises:
        HubinitError: there is not such a folder.
    """
    if not folder.is_dir():
        raise HubinitError(f"There is no folder {folder}; name the one that bench or train got as --out.")
    store, index, held = ResultStore(folder), StoredIndex(ResultStore(folder)), holders(folder)
    snapshots = read_snapshots(folder)
    rows: dict[str, Row] = {}
    lists: dict[str, list[Row]] = {}
    doing: dict[str, Doing] = {}
    for snapshot in sorted(snapshots, key=lambda one: one.name in held):  # what is alive knows best
        lists[snapshot.name] = read_rows(folder, snapshot.name)
        rows |= {row.key: row for row in lists[snapshot.name]}
        if snapshot.name in held:
            doing |= {one.key: one for one in snapshot.doing}
    for path in sorted(folder.glob("runs/*/result.json")):
        if path.parent.name not in rows and (row := row_of_result(store, path.parent.name)) is not None:
            rows[row.key] = row
    runs = {key: look(row, store, index, doing, held) for key, row in rows.items()}
    sweeps = []
    for snapshot in snapshots:
        left = sum(runs[row.key].state == "left" for row in lists[snapshot.name])
        if snapshot.name in held or left:
            sweeps.append(SweepStatus(snapshot, snapshot.name in held, left))
    return Status(tuple(runs.values()), tuple(sweeps))


def look(
    row: Row, store: ResultStore, index: StoredIndex, doing: Mapping[str, Doing], held: Mapping[str, Holder]
) -> RunStatus:
    """The state of one run."""
    if row.key in held or row.key in doing:
        return RunStatus(row, "running", doing=doing.get(row.key), holder=held.get(row.key))
    if row.state != "cached" and written_at(store.root, row.key) == row.before:
        return RunStatus(row, "left")
    stored = index.find(row.key)
    if stored is None:  # it was deleted, or cannot be read
        return RunStatus(row, "left")
    if stored.status in (*NO_SUCCESS, "partial") and (result := store.readable(row.key)) is not None:
        return RunStatus(row, stored.status, result.reason)
    return RunStatus(row, stored.status)


def row_of_result(store: ResultStore, key: str) -> Row | None:
    """A run that no list of a sweep names, from its result; None where that cannot be read."""
    result = store.readable(key)
    if result is None:
        return None
    return Row(key, tuple(cells_of(result.spec, group_of(result.spec))), "cached")
