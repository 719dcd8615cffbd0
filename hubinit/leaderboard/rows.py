"""What one row of the leaderboard may hold: the model that every row is checked against, and the schema that follows from it."""

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hubinit.records import Record
from hubinit.specs import ModelKind, Recipe

LONGEST = 8_000  # characters of one cell
LARGEST = 1e30  # of a number that is not counted: sums and squares of such ones stay finite, in single precision too
COUNTED = 2**53  # counts below it are exact as floating-point numbers, too, which missing values make of a column
CLOCKS_DIFFER = timedelta(days=1)  # how far in the future another machine's "now" may lie
RATING = "score"  # the metric of a judge: from 1 to 10
SHARES = ("acc", "exact_match", "em", "f1", "pass")  # metrics whose names begin so lie between 0 and 1
ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@lru_cache(maxsize=4096)  # rows share their options, versions and hardware
def _json_object(text: str) -> str:
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError("is not JSON") from error
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")
    return text


@lru_cache(maxsize=4096)
def _recipe(text: str) -> str:
    """A newer version's recipe may have more fields; those that this version knows must be right."""
    found = json.loads(_json_object(text))
    known = {name: value for name, value in found.items() if name in Recipe.model_fields}
    Recipe.model_validate_json(json.dumps(known), strict=True)  # "3" is not the number 3, which is what readers print
    return text


def _created(text: str) -> str:
    when = datetime.fromisoformat(text)
    if (when if when.tzinfo else when.replace(tzinfo=UTC)) > datetime.now(UTC) + CLOCKS_DIFFER:
        raise ValueError("lies in the future")
    return text


Name = Annotated[str, Field(min_length=1, max_length=300)]
Text = Annotated[str, Field(max_length=LONGEST)]
JsonObject = Annotated[Text, AfterValidator(_json_object)]
Created = Annotated[str, Field(max_length=40), AfterValidator(_created)]
Count = Annotated[int, Field(ge=0, lt=COUNTED)]
OwnSeed = Annotated[int, Field(gt=-COUNTED, lt=COUNTED)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def printed(metric: str) -> float:
    """What a measured score is printed with: shares in percent, as papers print them, and a judge's ratings as they are."""
    return 1.0 if metric == RATING else 100.0


class Row(Record):
    """Base of the rows of a table: what is missing is null, since older versions wrote fewer columns."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", hide_input_in_errors=True)


class RunRow(Row):
    """One run, task and metric; the row of a run without scores has no task."""

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    status: Literal["ok", "partial", "failed", "diverged"]
    reason: Text | None = Field(default=None, description="of a run without a score, or with some")
    model: Name = Field(description="Hub id of the base")
    revision: Name | None = Field(default=None, description="commit of the base")
    kind: ModelKind | None = None
    dtype: Name | None = Field(default=None, description="of the base's weights; null: hubinit 0.1 did not say")
    method: Name = Field(description="initialisation, as in `hubinit methods`")
    method_version: Count | None = None
    options: JsonObject = Field(description="of the method, JSON")
    rank: Count = Field(description="of the adapter")
    alpha: Amount = Field(description="LoRA's")
    rslora: bool | None = None
    target_modules: Text | None = None
    lr: Amount = Field(description="learning rate")
    seed: int = Field(ge=-(2**63), lt=2**63)
    data_seed: OwnSeed | None = Field(default=None, description="null: `seed`; so the next two")
    init_seed: OwnSeed | None = None
    dropout_seed: OwnSeed | None = None
    train_data: Text | None = Field(default=None, description='task names joined by "+"')
    train_samples: Count | None = Field(default=None, description="examples it was trained on")
    validation_samples: Count | None = None
    recipe: Annotated[Text, AfterValidator(_recipe)] | None = Field(
        default=None, description="JSON, without what changes no number and without defaults"
    )
    optimiser: Text | None = Field(default=None, description="with its settings; `recipe` says it too")
    steps: Count | None = Field(default=None, description="of the optimiser")
    calibration_samples: Count | None = Field(
        default=None, description="examples the pass saw; hubinit 0.1: that were asked for"
    )
    calibration: JsonObject | None = Field(default=None, description="its other settings, without defaults")
    unadapted: Count | None = Field(default=None, description="target modules that the method left without an adapter")
    task: Name | None = Field(default=None, description="that was scored; null: none was")
    data_revision: Name | None = Field(default=None, description="commit of the task's data set")
    limit: Count | None = Field(default=None, description="first questions of the test split; null: all")
    shots: Count | None = Field(default=None, description="solved examples in the prompt")
    judge: Name | None = Field(default=None, description="model that rated the answers")
    metric: Name | None = Field(default=None, description="as the task names it")
    primary: bool | None = Field(default=None, description="whether it is the metric that ranks the task")
    value: Number | None = Field(default=None, description="0 to 1 for shares")
    n: Annotated[int, Field(ge=1, lt=COUNTED)] | None = None
    stderr: Amount | None = Field(default=None, description="s/√n over the questions")
    invalid_rate: Share | None = Field(default=None, description="share of answers without a usable one")
    items: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="sha256 of the item records behind the score"
    )
    judge_version: Text | None = Field(default=None, description="that the judge reported about itself")
    contaminated: Count | None = Field(default=None, description="test items that are in the training data")
    validation_loss: Number | None = Field(default=None, description="at the end of training")
    forgetting: Number | None = Field(
        default=None, description="cross-entropy on neutral text, after − before, in nats"
    )
    curve: JsonObject | None = Field(default=None, description="training loss in blocks of steps, see `curves`")
    seconds_load: Amount | None = None
    seconds_calibrate: Amount | None = None
    seconds_initialise: Amount | None = None
    seconds_train: Amount | None = Field(default=None, description="of training alone")
    seconds_evaluate: Amount | None = None
    peak_memory_bytes: Count | None = Field(default=None, description="the highest of all stages")
    trainable_parameters: Count | None = Field(default=None, description="of the adapter")
    adapter_bytes: Count | None = None
    adapter_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    versions: JsonObject | None = Field(default=None, description="of libraries, JSON")
    hardware: JsonObject | None = Field(default=None, description="of the machine, JSON")
    git_sha: Name | None = Field(default=None, description="of hubinit's code")
    git_dirty: bool | None = None
    command: Text | None = Field(default=None, description="that made it")
    created: Created

    @model_validator(mode="after")
    def _score_is_whole(self) -> "RunRow":
        if self.task is None:
            if self.value is not None or self.primary:
                raise ValueError("a score without a task")
        elif None in (self.metric, self.primary, self.n, self.shots):
            raise ValueError("a score without its metric, primary, n or shots")
        elif self.value is not None and (self.metric or "").startswith(SHARES) and not 0 <= self.value <= 1:
            raise ValueError(f"{self.metric} is a share, so its value lies between 0 and 1")
        return self


def schema_of(model: type[BaseModel]) -> pa.Schema:
    """The columns of a table of such rows, all of them nullable."""
    return pa.schema([(name, ARROW[_plain(field.annotation)]) for name, field in model.model_fields.items()])


def _plain(annotation: Any) -> type:
    """The plain type below `Annotated`, `Literal` and `| None`."""
    if isinstance(annotation, type):
        return annotation
    if get_origin(annotation) is Literal:
        return str
    return next(_plain(part) for part in get_args(annotation) if part is not NoneType)
