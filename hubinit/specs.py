"""What a run is: frozen specifications and the content hash that names them.

A run is model × method (and its options) × rank × training recipe × learning rate × seed. It is trained once and evaluated
on a list of tasks, so the tasks are not part of its key: asking for one more task scores the adapter that is already there.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ModelKind = Literal["language", "vision"]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0)]

# Settings of how something is computed, never of what comes out: they are no part of a key.
EXECUTION = frozenset({"memory_budget"})
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: Any) -> Any:
    """`2GiB`, `1.5 GB` or a number of bytes as a whole number of bytes; what is no text stays as it is.

    Raises:
        ValueError: another text.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].upper() not in UNITS:
        raise ValueError(f"a size is a number of bytes or like 2GiB or 500MB, not '{value}'")
    return int(float(found[1]) * UNITS[found[2].upper()])


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]


class Spec(BaseModel):
    """Base of all specifications: immutable, and no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical_json(self) -> str:
        """The one JSON text of what this specifies: sorted keys, no spaces, nothing of `EXECUTION`."""
        return json.dumps(_identity(self.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """The first 16 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]


def _identity(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _identity(part) for name, part in value.items() if name not in EXECUTION}
    return [_identity(part) for part in value] if isinstance(value, list) else value


class ModelSpec(Spec):
    """A base model on a Hub (or a local folder), at one exact revision."""

    id: str
    revision: str | None = Field(default=None, description="commit sha; resolved when the plan is made")
    kind: ModelKind = "language"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False


class MethodSpec(Spec):
    """An initialisation method with its options; `version` changes when its mathematics does."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    version: int = 1


class DataSpec(Spec):
    """Training data: the train splits of one or more tasks, at exact revisions."""

    tasks: tuple[str, ...]
    revisions: tuple[str | None, ...] = ()
    samples: int | None = Field(default=None, ge=1, description="at most this many examples after the seeded shuffle")
    validation_samples: int = Field(
        default=0, ge=0, description="held out of the training split to choose between settings"
    )


class CalibrationSpec(Spec):
    """The calibration pass: how many training examples, how long, which Fisher, which tokens."""

    samples: int = Field(default=256, ge=1)
    max_length: int = Field(default=512, ge=1)
    fisher: Literal["empirical", "sampled"] = "empirical"
    tokens: Literal["attended", "labels"] = "attended"
    seed: int = 0
    memory_budget: Bytes | None = Field(
        default=None, description="for the sums on the model's device, e.g. 2GiB; None: half of what a GPU has free"
    )


class Recipe(Spec):
    """How a run is trained. The loss is on the completion only."""

    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=1, description="optimiser steps; overrides epochs")
    batch_size: int = Field(default=16, ge=1, description="examples per optimiser step")
    micro_batch_size: int = Field(default=4, ge=1, description="examples per forward pass")
    max_length: int = Field(default=512, ge=1)
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    gradient_checkpointing: bool = False


class RunSpec(Spec):
    """One run. `none` (the base as it is) has neither data nor recipe nor calibration, and rank 0."""

    model: ModelSpec
    method: MethodSpec
    rank: int = Field(ge=0)
    alpha: float = Field(ge=0, allow_inf_nan=False)
    rslora: bool = False
    target_modules: str | tuple[str, ...] = "all-linear"
    data: DataSpec | None = None
    recipe: Recipe | None = None
    calibration: CalibrationSpec | None = None
    learning_rate: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: int = 0


class EvalSpec(Spec):
    """One evaluation of a run: a task at an exact data revision, on how many of its test examples."""

    task: str
    revision: str | None = None
    limit: int | None = Field(default=None, ge=1, description="only the first `limit` test examples")
    shots: int = Field(default=0, ge=0)


class Protocol(Spec):
    """A recipe for many runs, read from `registry/presets/*.yaml` or a YAML file; `--set a.b=value` overrides one field.

    `methods` holds options by method name: `{"lora-da": {"preset": "paper"}}`.
    """

    description: str = ""
    source: str = Field(default="", description="paper or repository and commit that the values come from")
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="None: twice the rank")
    rslora: bool = False
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rates: tuple[Rate, ...] = (2e-4,)
    seeds: tuple[Seed, ...] = (0,)
    recipe: Recipe = Recipe()
    samples: int | None = Field(default=None, ge=1, description="training examples; None: the whole training split")
    validation_samples: int = Field(default=120, ge=0, description="held out of the training split")
    calibration: CalibrationSpec = CalibrationSpec()
    calibration_samples: int | None = Field(
        default=None, ge=1, description="None: what the method's source used, else 256"
    )
    limit: int | None = Field(default=None, ge=1, description="test examples per task; None: all")
    shots: int = Field(default=0, ge=0)
    eval_batch_size: int = Field(default=16, ge=1)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
