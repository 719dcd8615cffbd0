"""What a run is: frozen specifications and the content hash that names them.

A run is model × method (and its options) × rank × training recipe × learning rate × seed. It is trained once and evaluated
on a list of tasks, so the tasks are not part of its key: asking for one more task scores the adapter that is already there.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

ModelKind = Literal["language", "vision"]
Dtype = Literal["auto", "float32", "bfloat16"]
Quantisation = Literal["nf4"]  # of a frozen base's linear layers, in bitsandbytes' names
Batching = Literal["shuffled", "length-grouped", "packed"]
Engine = Literal["transformers", "vllm"]  # what answers free-text tasks
# A step of Adam moves a factor's entries, which are below 1, by about the learning rate: above 1 every run diverges.
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Seed = Annotated[int, Field(ge=0)]

FULL = "full"  # the method that trains all weights
NO_ADAPTER = ("none", FULL)

LM_EVAL_PREFIX = "lm-eval:"  # of the names of tasks that lm-eval defines and hubinit does not register
DEFAULT_OPTIMISER = "adamw"
# Settings of a recipe that one optimiser reads: they belong to its runs only, and the leaderboard names them with it.
OF_OPTIMISER = {"lora_plus_ratio": "lora+", "riemannian_damping": "riemannian"}

# Settings of how something is computed, which change what comes out by rounding at most: they are not part of a key.
EXECUTION = frozenset({"memory_budget", "micro_batch_size", "batching", "gradient_checkpointing"})


class Spec(BaseModel):
    """Base of all specifications: immutable, and no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical_json(self) -> str:
        """The one JSON text of what this specifies: sorted keys, no spaces, no `EXECUTION`, nothing at its default.

        Defaults are left out, nested ones too, so that a new field changes no key. A default must therefore never change its
        value: the golden keys in the tests hold it.
        """
        return canonical(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def key(self) -> str:
        """The first 16 hex digits of the sha256 of the canonical JSON."""
        return key_of(self.canonical_json())


def canonical(value: Any, without: frozenset[str] = EXECUTION) -> str:
    """JSON with sorted keys, without spaces and without the fields named in `without`."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: kept(inner) for name, inner in part.items() if name not in without}
        return [kept(inner) for inner in part] if isinstance(part, list) else part

    return json.dumps(kept(value), sort_keys=True, separators=(",", ":"))


def key_of(text: str) -> str:
    """The first 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ModelSpec(Spec):
    """A base model on a Hub (or a local folder), at one exact revision."""

    id: str
    revision: str | None = Field(default=None, description="commit sha; resolved when the plan is made")
    kind: ModelKind = "language"
    dtype: Dtype = Field(default="auto", description="of the weights; a plan holds the type itself, never `auto`")
    trust_remote_code: bool = False
    quantize: Quantisation | None = Field(default=None, description="of the linear layers; the rest has the dtype")

    @property
    def stored_in(self) -> str:
        """What the weights are held in, for people: `bfloat16`, or `bfloat16 + nf4`."""
        return f"{self.dtype} + {self.quantize}" if self.quantize else self.dtype


class MethodSpec(Spec):
    """An initialisation method with its options; `version` changes when its mathematics does."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    version: int = 1


class OwnData(Spec):
    """Which part of the user's own data the rows are, and what is in them."""

    sha256: str = Field(description="of the checked rows' content and order")
    config: str | None = Field(default=None, description="configuration of a Hub data set")
    split: str | None = Field(default=None, description="split of a Hub data set")
    columns: dict[str, str] = Field(default_factory=dict, description="prompt, completion, … to the data's own names")


class DataSpec(Spec):
    """Training data: the train splits of one or more tasks, at exact revisions, or the user's own.

    The user's own data are named in `tasks` (file name or id of the data set), with the file's sha256 or the commit as revision;
    `own` says which part of them it is. The same rows under another name are therefore other data: the name stands on cards.
    """

    tasks: tuple[str, ...]
    revisions: tuple[str | None, ...] = ()
    samples: int | None = Field(default=None, ge=1, description="at most this many examples after the seeded shuffle")
    validation_samples: int = Field(
        default=0, ge=0, description="held out of the training split to choose between settings"
    )
    own: OwnData | None = Field(default=None, description="None: `tasks` are registered tasks")


class CalibrationSpec(Spec):
    """The calibration pass: how many training examples, how long, which Fisher, which tokens."""

    samples: int = Field(default=256, ge=1)
    max_length: int = Field(default=512, ge=1)
    fisher: Literal["empirical", "sampled"] = "empirical"
    tokens: Literal["attended", "labels"] = "attended"
    seed: int = 0
    memory_budget: Annotated[ByteSize, Field(ge=1)] | None = Field(
        default=None, description="for the sums on the model's device, e.g. 2GiB; None: half of what a GPU has free"
    )


class Recipe(Spec):
    """How a run is trained."""

    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=1, description="optimiser steps; overrides epochs")
    batch_size: int = Field(default=16, ge=1, description="examples per optimiser step")
    micro_batch_size: int = Field(default=4, ge=1, description="examples per forward pass")
    batching: Batching = Field(
        default="shuffled",
        description="how the examples of an optimiser step, which stay the same, share its forward passes: as they come, "
        "length-grouped (less padding), or packed into one row each (none)",
    )
    max_length: int = Field(
        default=512, ge=1, description="tokens per example; longer ones lose the beginning of the prompt"
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="on the input of s·B A, never of an anchor")
    optimiser: str = Field(
        default=DEFAULT_OPTIMISER, description="see `hubinit.training.optimisers`; in a protocol: `optimisers`"
    )
    lora_plus_ratio: float = Field(
        default=16.0, ge=1, allow_inf_nan=False, description="lora+: B's rate ÷ A's; the paper recommends 16"
    )
    riemannian_damping: float = Field(
        default=1e-6, gt=0, allow_inf_nan=False, description="riemannian: δ; the released code 1e-6, PEFT 1e-2"
    )
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    warmup_steps: int | None = Field(default=None, ge=0, description="optimiser steps; overrides warmup_ratio")
    loss_on: Literal["completion", "all"] = Field(
        default="completion", description="the tokens with a loss; all: the prompt's too (train_on_inputs)"
    )
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    gradient_checkpointing: bool = False

    @property
    def optimiser_label(self) -> str:
        """The optimiser with its settings that are not the defaults, such as `lora+ lora_plus_ratio=4.0`."""
        own = [name for name, reader in OF_OPTIMISER.items() if reader == self.optimiser]
        changed = self.model_dump(include=set(own), exclude_defaults=True)
        return " ".join([self.optimiser, *(f"{name}={value}" for name, value in changed.items())])

    @model_validator(mode="after")
    def _batches_fit(self) -> "Recipe":
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}; change one"
            )
        return self


class RunSpec(Spec):
    """One run. `none` has no calibration and rank 0: the base as it is, without data and recipe, or a linear probe with both.

    `full` has no calibration and rank 0 too.
    """

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
    data_seed: int | None = Field(default=None, description="of the choice and order of the examples; None: `seed`")
    init_seed: int | None = Field(default=None, description="of the first factors and a fresh head; None: `seed`")
    dropout_seed: int | None = Field(default=None, description="of dropout; None: `seed`")

    def seed_of(self, what: Literal["data", "init", "dropout"]) -> int:
        """The seed of one source of chance: its own where it has one, else the run's."""
        own = {"data": self.data_seed, "init": self.init_seed, "dropout": self.dropout_seed}[what]
        return self.seed if own is None else own


class EvalSpec(Spec):
    """One evaluation of a run: a task at an exact data revision, on how many of its test examples."""

    task: str
    revision: str | None = None
    limit: int | None = Field(default=None, ge=1, description="only the first `limit` test examples")
    shots: int = Field(default=0, ge=0)
    samples: int | None = Field(default=None, ge=1, description="answers per question; None: what the task's rule says")
    judge: str | None = Field(default=None, description="model that rates the answers, where a task needs one")


def default_alpha(rank: int) -> float:
    """Twice the rank, the commonest choice of the published recipes (LLM-Adapters, LoRA-GA, LoRA-One, LoRA-DA)."""
    return 2.0 * rank


class Search(Spec):
    """How a protocol chooses the learning rate of each method; `hubinit.runs.fair` says why so.

    The grid is the protocol's `learning_rates`, and the seeds of the scored runs are its `seeds`.
    """

    default_rate: Rate = Field(
        default=2e-4, gt=0, description="the rate that every method is scored at besides its own"
    )
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.25,), description="shares of the training that rates are compared at before the whole one"
    )
    keep: float = Field(default=0.5, gt=0, le=1, description="share of a method's rates that goes on to the next rung")
    extend: int = Field(default=2, ge=0, description="rates at most that a method may add beyond each end of the grid")

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the training at each rung; the last is the whole."""
        return (*self.rungs, 1.0)

    @model_validator(mode="after")
    def _rungs_grow(self) -> "Search":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError("rungs must grow, such as [0.1, 0.3]")
        return self


class MethodSettings(Spec):
    """What a protocol's source used for one method, where that is not what it used for all; None: as for all."""

    rank: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rslora: bool | None = None
    target_modules: str | tuple[str, ...] | None = None
    learning_rates: tuple[Rate, ...] | None = Field(default=None, min_length=1)
    lora_dropout: float | None = Field(default=None, ge=0, lt=1)
    source: str = Field(default="", description="where these values stand, if not in the protocol's source")


class Protocol(Spec):
    """A recipe for many runs, read from `registry/protocols/*.yaml` or a YAML file; `--set a.b=value` overrides one field.

    `methods` holds options by method name: `{"lora-da": {"preset": "paper"}}`; `per_method` holds `MethodSettings`.
    """

    description: str = ""
    source: str = Field(default="", description="paper or repository and commit that the values come from")
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="None: twice the rank")
    rslora: bool = False
    target_modules: str | tuple[str, ...] = "all-linear"
    match_parameters: bool = Field(
        default=False,
        description="`rank` is plain LoRA's; a method whose trainable parameters another rank brings nearer to LoRA's has that "
        "rank, at the same scaling. A rank in `per_method` stays",
    )
    learning_rates: tuple[Rate, ...] = Field(default=(2e-4,), min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    optimisers: tuple[str, ...] = Field(default=(DEFAULT_OPTIMISER,), min_length=1)
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
    search: Search | None = Field(default=None, description="None: every learning rate is run in full at every seed")
    data_seed: Seed | None = Field(default=None, description="the same at every seed; None: the seed")
    init_seed: Seed | None = Field(default=None, description="the same at every seed; None: the seed")
    dropout_seed: Seed | None = Field(default=None, description="the same at every seed; None: the seed")
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    # What a published protocol pins besides; prompts, decoding and rules are those of its tasks (`hubinit tasks NAME`).
    per_method: dict[str, MethodSettings] = Field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="trained on: scored on, where neither --tasks nor --eval-tasks says it"
    )
    revisions: dict[str, Commit] = Field(default_factory=dict, description="commits of data sets by Hub id")
    models: tuple[str, ...] = Field(
        default=(), description="base models, of the source or of a sweep, without --models"
    )
    compare: tuple[str, ...] = Field(
        default=(), description="methods without --methods; in a file also `methods: [lora, pissa]`. Default: all"
    )
    budget: Annotated[str, Field(pattern=r"^\s*\d+(\.\d+)?\s*[smhd]\s*$")] | None = Field(
        default=None, description="time for all trainings and their scores, such as 8h, without --budget"
    )
    dtype: Dtype = Field(default="auto", description="of the base without --dtype")
    assumed: tuple[str, ...] = Field(default=(), description="what the source does not say, or is done otherwise here")

    @property
    def alpha_or_default(self) -> float:
        """Alpha, or twice the rank."""
        return self.alpha if self.alpha is not None else default_alpha(self.rank)

    @model_validator(mode="after")
    def _one_place_each(self) -> "Protocol":
        if "samples" in self.calibration.model_fields_set:
            raise ValueError("calibration.samples is set per method; say calibration_samples instead")
        if self.search is not None and (self.validation_samples == 0 or min(self.learning_rates) == 0):
            raise ValueError("search wants validation_samples of at least 1 to choose by, and learning rates above 0")
        if "optimiser" in self.recipe.model_fields_set:
            raise ValueError("recipe.optimiser is set per run; say --optimizers (in a protocol: optimisers) instead")
        return self

    def seeds_with(self, seed: int) -> dict[str, int | None]:
        """The seeds of a run as fields of `RunSpec`; one that is the run's own is not said twice, so that the key is one."""
        own = {"data_seed": self.data_seed, "init_seed": self.init_seed, "dropout_seed": self.dropout_seed}
        return {"seed": seed} | {name: None if value == seed else value for name, value in own.items()}

    def for_method(self, name: str) -> "Protocol":
        """This protocol with what it says for one method."""
        if name not in self.per_method:
            return self
        settings = self.per_method[name].model_dump(exclude={"source"}, exclude_none=True)
        dropout = settings.pop("lora_dropout", None)
        if dropout is not None:
            settings["recipe"] = self.recipe.model_copy(update={"lora_dropout": dropout})
        return self.model_copy(update=settings)

    def matches(self, method: str) -> bool:
        """Whether the rank of a method follows its trainable parameters."""
        own = self.per_method.get(method, MethodSettings())
        return self.match_parameters and method not in NO_ADAPTER and own.rank is None

    def for_all(self, fields: Iterable[str]) -> "Protocol":
        """This protocol where some fields hold for every method, as a user who sets them means; others are ignored."""
        if not (cleared := dict.fromkeys(set(fields) & MethodSettings.model_fields.keys())) or not self.per_method:
            return self
        settings = {name: one.model_copy(update=cleared) for name, one in self.per_method.items()}
        return self.model_copy(update={"per_method": settings})

    def recipe_with(self, optimiser: str) -> Recipe:
        """The recipe of the runs of one optimiser, without the settings that others read."""
        others = {name for name, reader in OF_OPTIMISER.items() if reader != optimiser}
        return Recipe(**self.recipe.model_dump(exclude=others) | {"optimiser": optimiser})
