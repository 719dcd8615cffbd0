"""What a plan and its estimates must know of each stored result, without reading them all: an index, a cache of the files.

`index.json` in the store holds an entry per result with the size and time of its file. A file that is another one by now is read
again, so an index that is old, lost, or written by two sweeps in turn costs time only.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from hubinit.paths import write_atomically
from hubinit.records import ResultStore, RunResult
from hubinit.specs import EvalSpec, RunSpec, canonical, key_of

FORMAT = 2


@dataclass(frozen=True)
class Work:
    """What a run did and how long that took.

    Attributes:
        model: its id.
        method: its name.
        hardware: that it was done on, as `key_of` names it.
        trained: examples that it was trained on.
        scored: examples that were scored.
        seconds: by stage.
    """

    model: str
    method: str
    hardware: str
    trained: int
    scored: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Stored:
    """The part of a result that decides what is still to be done."""

    status: str
    created: str
    validation_loss: float | None
    evaluations: frozenset[EvalSpec]  # that it holds the scores of, but for those where a metric was left out
    work: Work

    def scored(self, evaluation: EvalSpec) -> bool:
        """As `RunResult.scored`."""
        return evaluation in self.evaluations


def summarise(result: RunResult) -> Stored:
    """The part of a result that a plan and its estimates look at."""
    scored = frozenset(score.eval for score in result.scores if result.scored(score.eval))
    return Stored(result.status, result.provenance.created, result.validation_loss, scored, work_of(result))


def work_of(result: RunResult) -> Work:
    """What a run did; each task counts once, however many metrics it has."""
    spec = result.spec
    return Work(
        model=spec.model.id,
        method=spec.method.name,
        hardware=name_hardware(result.provenance.hardware),
        trained=trained_examples(spec),
        scored=sum(n for _, n in {(score.eval.task, score.n) for score in result.scores}),
        seconds={stage: cost.seconds for stage, cost in result.costs.items()},
    )


def name_hardware(facts: Mapping[str, str]) -> str:
    """A short name for what a machine is."""
    return key_of(canonical(dict(facts)))


def trained_examples(spec: RunSpec) -> int:
    """Examples seen in training; epochs over an unknown number of examples count as 10,000 each."""
    if spec.recipe is None or spec.data is None:
        return 0
    if spec.recipe.steps is not None:
        return spec.recipe.steps * spec.recipe.batch_size
    return round(spec.recipe.epochs * (spec.data.samples or 10_000))


def read_stored(store: ResultStore, key: str) -> Stored | None:
    """What is stored of one run, from the result itself."""
    result = store.readable(key)
    return summarise(result) if result is not None else None


class StoredIndex:
    """The stored results of a folder in few words."""

    def __init__(self, store: ResultStore) -> None:
        self.store = store
        self.path = store.root / "index.json"
        self.known: dict[str, tuple[int, int, Stored]] = _read(self.path)
        self.changed = 0  # entries since it was written

    def find(self, key: str, on_problem: Callable[[str], None] = lambda problem: None) -> Stored | None:
        """What is stored of a run; None where nothing is that can be read, and then `on_problem` is told why."""
        try:
            stat = (self.store.folder(key) / "result.json").stat()
        except FileNotFoundError:
            return None
        known = self.known.get(key)
        if known is not None and known[:2] == (stat.st_mtime_ns, stat.st_size):
            return known[2]
        result = self.store.readable(key, on_problem)
        if result is None:
            return None
        self.known[key] = (stat.st_mtime_ns, stat.st_size, summarise(result))
        self.changed += 1
        return self.known[key][2]

    def all(self) -> Iterator[Stored]:
        """What is stored of every run of the folder that can be read, by key."""
        for path in sorted(self.store.root.glob("runs/*/result.json")):
            if (found := self.find(path.parent.name)) is not None:
                yield found

    def save(self, least: int = 1) -> None:
        """Writes the index, if at least so many entries are new; one that cannot be written is a slow start, not a failure."""
        if self.changed < least:
            return
        evaluations: dict[EvalSpec, int] = {}
        rows = {}
        for key, (time, size, one) in self.known.items():
            places = [evaluations.setdefault(evaluation, len(evaluations)) for evaluation in one.evaluations]
            rows[key] = (time, size, one.status, one.created, one.validation_loss, places, astuple(one.work))
        whole = {"format": FORMAT, "evaluations": [e.model_dump(mode="json") for e in evaluations], "results": rows}
        try:
            write_atomically(self.path, json.dumps(whole, separators=(",", ":")))
        except OSError:
            return
        self.changed = 0


def _read(path: Path) -> dict[str, tuple[int, int, Stored]]:
    """The entries of an index; none where there is no index that this version can read."""
    try:
        whole: Any = json.loads(path.read_bytes())
        if whole["format"] != FORMAT:
            return {}
        evaluations = [EvalSpec.model_validate(one) for one in whole["evaluations"]]
        sets: dict[tuple[int, ...], frozenset[EvalSpec]] = {}  # most runs have the same
        known = {}
        for key, (time, size, status, created, loss, numbers, work) in whole["results"].items():
            places = tuple(numbers)
            if places not in sets:
                sets[places] = frozenset(evaluations[place] for place in places)
            known[key] = (time, size, Stored(status, created, loss, sets[places], Work(*work)))
        return known
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return {}
