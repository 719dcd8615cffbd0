"""What a search decided, as it is stored: `fair/*.json` of the store, one for each model, training data and setting.

It repeats no score: the runs that it names by key have them.
"""

from pathlib import Path
from typing import Any

from hubinit.errors import HubinitError, first_line
from hubinit.paths import write_atomically
from hubinit.records import Record
from hubinit.runs.fair import Decision
from hubinit.specs import DEFAULT_OPTIMISER, Protocol, RunSpec, canonical, key_of

FOLDER = "fair"  # in a store
UNSAID = {"methods", "compare", "budget", "description", "source"}  # what of a protocol is not part of its setting


class TriedRate(Record):
    """One rate of one method at one rung."""

    rung: int
    share: float  # of the whole training
    learning_rate: float
    key: str
    validation_loss: float | None
    decision: Decision
    reason: str


class FinalRun(Record):
    """One run that is scored; without a status it has not been done."""

    learning_rate: float
    seed: int
    key: str
    status: str | None
    validation_loss: float | None
    reason: str | None = None  # why it was left out, or has no score


class MethodDecisions(Record):
    """The search of one method with one optimiser."""

    method: str
    optimiser: str
    options: dict[str, Any]
    rank: int
    grid: tuple[float, ...] | None = None  # where `--suggest-lr` moved it; None: that of all
    trainable_parameters: int | None
    parameters_to_lora: float | None  # ratio; None: one of the two is not known yet
    tried: tuple[TriedRate, ...]
    added_rates: tuple[float, ...]  # beyond the grid
    chosen_rate: float | None  # by the search, at the first seed
    tuned_rate: float | None  # of this and the default one, by median validation loss over seeds
    finals: tuple[FinalRun, ...]
    at_edge: bool  # the chosen rate is the last that may be added: a better one may lie beyond
    ended_early: str | None  # why the search or the method was cut short

    @property
    def name(self) -> str:
        """The method, with an optimiser that is not the default one."""
        return self.method if self.optimiser == DEFAULT_OPTIMISER else f"{self.method} ({self.optimiser})"

    @property
    def failed(self) -> bool:
        """Whether it was tried and no run has a validation loss."""
        return bool(self.tried) and all(one.validation_loss is None for one in self.tried)


class Decisions(Record):
    """Everything that was decided for one model and training set."""

    model: str
    revision: str | None
    dtype: str
    group: str
    rank: int
    grid: tuple[float, ...]
    default_rate: float
    shares: tuple[float, ...]
    keep: float
    extend: int
    seeds: tuple[int, ...]
    budget_seconds: float | None
    spent_seconds: float
    methods: tuple[MethodDecisions, ...]

    def dropped(self) -> list[str]:
        """What was not done or not followed, and why: a line for each method and each reason but a higher validation loss."""
        lines = []
        for one in self.methods:
            lines += [f"{one.name}: {one.ended_early}"] if one.ended_early else []
            if one.at_edge:
                lines.append(
                    f"{one.name}: {one.chosen_rate:g} is the last rate that the search may add; a better one may lie beyond "
                    f"(--set search.extend={self.extend + 1})"
                )
            lost = [tried for tried in one.tried if tried.decision == "dropped"]
            lines += [
                f"{one.name} at {tried.learning_rate:g} after {tried.share:.0%} of the training: {tried.reason}"
                for tried in lost
                if tried.validation_loss is None
            ]
            for share in self.shares:
                rates = [f"{t.learning_rate:g}" for t in lost if t.share == share and t.validation_loss is not None]
                if rates:
                    lines.append(f"{one.name} at {', '.join(rates)} after {share:.0%}: a higher validation loss")
            lines += [f"{one.name} at {f.learning_rate:g}, seed {f.seed}: {f.reason}" for f in one.finals if f.reason]
        return lines


def path_of(root: Path, spec: RunSpec, group: str, protocol: Protocol, *, suggested: bool = False) -> Path:
    """The file for a model, its training data and a setting; which methods take part makes no difference.

    Args:
        root: of the store.
        spec: any run of the comparison.
        group: name of what it trains on.
        protocol: that all of them follow.
        suggested: each method has its own grid.
    """
    data = spec.data.model_dump(mode="json") if spec.data is not None else None
    setting = protocol.model_dump(mode="json", exclude_defaults=True, exclude=UNSAID)
    key = key_of(canonical({"model": spec.model.model_dump(mode="json"), "data": data, "protocol": setting}))
    name = f"{spec.model.id.rstrip('/').split('/')[-1]}-{group}-r{protocol.rank}-{key[:8]}"
    name += "-suggested.json" if suggested else ".json"
    return root / FOLDER / name.replace("/", "-").replace(":", "-")


def write_decisions(path: Path, decisions: Decisions) -> None:
    """Writes the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, decisions.model_dump_json(indent=1) + "\n")


def read_decisions(path: Path) -> Decisions:
    """Reads the file.

    Raises:
        HubinitError: it is not one.
    """
    try:
        return Decisions.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise HubinitError(f"{path} does not hold the decisions of a search: {first_line(error)}.") from error
