"""The result of a run: one JSON per run, written last and atomically; everything after (cards, leaderboard) reads only these."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubinit.errors import HubinitError
from hubinit.specs import EvalSpec, RunSpec

SCHEMA_VERSION: Literal[1] = 1
Stage = Literal["load", "calibrate", "initialise", "train", "evaluate"]


class Record(BaseModel):
    """Base of stored records: immutable and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # JSON itself has no NaN


class Score(Record):
    """One metric of one task. `value` and `stderr` are on the scale 0–1 for accuracies."""

    task: str
    metric: str
    value: float
    n: int = Field(ge=1, description="scored examples")
    stderr: float | None = None
    invalid_rate: float | None = Field(default=None, description="share of outputs without a usable answer")
    primary: bool = Field(default=False, description="the metric that ranks the task")
    eval: EvalSpec


class Cost(Record):
    """What one stage cost."""

    seconds: float
    peak_memory_bytes: int | None = None


class CurvePoint(Record):
    """One logged optimiser step."""

    step: int
    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None


class Provenance(Record):
    """Where a result comes from."""

    versions: dict[str, str]
    hardware: dict[str, str]
    git_sha: str | None = None
    git_dirty: bool | None = None
    command: str
    created: str


class RunResult(Record):
    """Everything known about a finished run. `partial`: trained, but some evaluation failed; `reason` says why."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    spec: RunSpec
    status: Literal["ok", "partial", "failed", "diverged"]
    reason: str | None = None
    scores: tuple[Score, ...] = ()
    validation_loss: float | None = None
    costs: dict[Stage, Cost] = Field(default_factory=dict)
    trainable_parameters: int | None = None
    adapter_bytes: int | None = None
    adapter_sha256: str | None = None
    curve: tuple[CurvePoint, ...] = ()
    gates: dict[str, float] = Field(default_factory=dict, description="measured deviation of each gate that passed")
    initialisation: dict[str, float] = Field(default_factory=dict, description="summary of the initialisation report")
    provenance: Provenance

    def scored(self, evaluation: EvalSpec) -> bool:
        """Whether this result already holds the scores of `evaluation`."""
        return any(score.eval == evaluation for score in self.scores)


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` so that a reader (or a crash) sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class ResultStore:
    """A folder with one folder per run key, each holding `result.json` and the adapters."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """The folder of one run."""
        return self.root / "runs" / key

    def read(self, key: str) -> RunResult | None:
        """The stored result, or None when the run has not finished.

        Raises:
            HubinitError: the file is damaged.
        """
        path = self.folder(key) / "result.json"
        return read_result(path) if path.exists() else None

    def write(self, result: RunResult) -> RunResult:
        """Stores a result; a run counts as finished from this moment on.

        A failure never replaces scores: where the run has some, they stay, and only the reason is added.

        Returns:
            What is stored now.
        """
        before = self._readable(result.key)
        if result.status in {"failed", "diverged"} and before is not None and before.status in {"ok", "partial"}:
            result = before.model_copy(update={"status": "partial", "reason": result.reason})
        write_atomically(self.folder(result.key) / "result.json", result.model_dump_json(indent=1) + "\n")
        return result

    def forget(self, key: str) -> None:
        """Drops a stored result, before its adapter is made anew."""
        (self.folder(key) / "result.json").unlink(missing_ok=True)

    def _readable(self, key: str) -> RunResult | None:
        try:
            return self.read(key)
        except HubinitError:
            return None

    def results(self) -> Iterator[RunResult]:
        """All stored results, by key."""
        for path in sorted(self.root.glob("runs/*/result.json")):
            yield read_result(path)


def read_result(path: Path) -> RunResult:
    """Reads one result JSON.

    Raises:
        HubinitError: the file is damaged or not a result.
    """
    try:
        result = RunResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        first = str(error).splitlines()[0]
        raise HubinitError(f"{path} is not a readable run result ({first}); delete it to run it again.") from error
    if result.spec.key != result.key:
        raise HubinitError(f"{path} was edited: its key does not match its specification; delete it to run it again.")
    return result
