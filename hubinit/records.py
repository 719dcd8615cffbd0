"""What a run left: its result, one JSON written last and atomically, and the manifest that lies beside each adapter.

Everything after (cards, leaderboard) reads only these.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hubinit.errors import HubinitError, first_line
from hubinit.paths import sha256_of, write_atomically
from hubinit.specs import EvalSpec, RunSpec, canonical, key_of

SCHEMA_VERSION: Literal[2] = 2  # 1: hubinit 0.1, whose keys hashed every field, defaults included
MANIFEST = "hubinit.json"  # beside an adapter
ITEMS = "items"  # the folder of a run's item records
ITEM_BYTES = 2**28  # of one file of item records, unpacked
ITEM_ROWS = 500_000
ITEM_CELLS = 20  # of an item in one column, on average: outputs, choices, metrics
ANCHOR = "anchor"  # the folder of a start point's anchor
AdapterKind = Literal["initialised", "trained"]
Stage = Literal["load", "calibrate", "initialise", "train", "diagnose", "evaluate"]


class Record(BaseModel):
    """Base of stored records: immutable and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # JSON itself has no NaN


class Item(Record):
    """One answered question: what it takes to read the answer, to check its score, and to pair two runs."""

    id: str
    prompt_hash: str = Field(default="", description="16 hex digits of the sha256 of what the model was given")
    outputs: tuple[str, ...] = Field(default=(), description="what it wrote, sample by sample; or the class it chose")
    extracted: dict[str, str] = Field(default_factory=dict, description="answer by metric; absent where none is usable")
    values: dict[str, float] = Field(default_factory=dict, description="by metric; 1 for right and 0 for wrong")
    log_likelihoods: tuple[float, ...] = Field(default=(), description="of the choices, in their order")
    detail: str | None = Field(default=None, description="why a program failed, what a judge said")
    seen: bool | None = Field(
        default=None, description="whether question and answer are in the training data; None: nobody looked"
    )


class Score(Record):
    """One metric of one task. `value` and `stderr` are on the scale 0–1 for accuracies."""

    task: str
    metric: str
    value: float
    n: int = Field(ge=1, description="scored examples")
    stderr: float | None = None
    invalid_rate: float | None = Field(default=None, description="share of outputs without a usable answer")
    contaminated: int | None = Field(
        default=None, ge=0, description="items that are in the run's training data; None: nobody looked"
    )
    primary: bool = Field(default=False, description="the metric that ranks the task")
    eval: EvalSpec
    items: str | None = Field(default=None, description="sha256 of its item records; None: version 0.2 or earlier")
    judge_version: str | None = Field(default=None, description="that a judge reports about itself, where it does")
    protection: str | None = Field(default=None, description="what kept a model's code apart; None: it wrote none")
    provenance: "Provenance | None" = Field(default=None, description="of this evaluation; None: that of its run")


class Cost(Record):
    """What one stage cost."""

    seconds: float
    peak_memory_bytes: int | None = None
    shared_seconds: float | None = Field(
        default=None,
        description="what the work took that several runs share; `seconds` is what this run alone would need",
    )


class CurvePoint(Record):
    """One logged optimiser step."""

    step: int
    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None


class Drift(Record):
    """How far training moved the product of one layer's factors, or the layers' on average; see `hubinit.training.drift`."""

    input_angle: float | None = Field(default=None, description="degrees between the row spaces of A, start and end")
    output_angle: float | None = Field(default=None, description="degrees between the column spaces of B")
    input_inside: float | None = Field(default=None, description="share of ‖ΔW‖² in the row space of the start's A")
    output_inside: float | None = Field(default=None, description="share of ‖ΔW‖² in the column space of the start's B")
    update_norm: float = Field(description="‖ΔW‖; of a model over all its layers")


class FirstUpdate(Record):
    """The first change of the weights beside the full gradient; see `hubinit.training.first_update`."""

    step: int = Field(ge=1, description="the first optimiser step that changed an adapter")
    cosine: float = Field(description="between ΔW and −G over all adapted layers")
    update_norm: float = Field(description="‖ΔW‖")
    gradient_norm: float = Field(description="‖G‖")


class Forgetting(Record):
    """Cross-entropy on neutral text, in nats per token, of the untouched base and of the trained model."""

    dataset: str
    revision: str | None
    split: str
    texts: int = Field(ge=1, description="the first distinct ones of the split")
    tokens: int = Field(ge=1, description="that are predicted")
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After − before: positive where the model forgot."""
        return self.after - self.before


class Diagnostics(Record):
    """What was seen of a training besides its curve. `unmeasured` says why a measure that was wanted is not there."""

    input_tokens_per_second: float | None = Field(default=None, description="of the training steps, without padding")
    label_tokens_per_second: float | None = None
    drift: Drift | None = None
    first_update: FirstUpdate | None = None
    forgetting: Forgetting | None = None
    unmeasured: dict[str, str] = Field(default_factory=dict)


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

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    key: str
    spec: RunSpec
    status: Literal["ok", "partial", "failed", "diverged"]
    reason: str | None = None
    scores: tuple[Score, ...] = ()
    validation_loss: float | None = None
    costs: dict[Stage, Cost] = Field(default_factory=dict)
    calibration_examples: int | None = Field(
        default=None, description="that the calibration saw, which may be fewer than asked for; None: version 0.1"
    )
    trainable_parameters: int | None = None
    cut_examples: int | None = Field(
        default=None, ge=0, description="training examples that were too long and lost tokens; None: nobody counted"
    )
    adapter_bytes: int | None = None
    adapter_sha256: str | None = None
    curve: tuple[CurvePoint, ...] = ()
    diagnostics: Diagnostics | None = Field(default=None, description="None: not trained, or by version 0.2 or earlier")
    gates: dict[str, float] = Field(default_factory=dict, description="measured deviation of each gate that passed")
    initialisation: dict[str, float] = Field(default_factory=dict, description="summary of the initialisation report")
    left_out: dict[str, str] = Field(default_factory=dict, description="modules that stay unadapted, with the reason")
    provenance: Provenance

    @property
    def calibrated_on(self) -> int | None:
        """Examples of the calibration, or how many were asked for where the result does not say; None without one."""
        if self.spec.calibration is None:
            return None
        return self.calibration_examples or self.spec.calibration.samples

    def scored(self, evaluation: EvalSpec) -> bool:
        """Whether this result already holds the scores of `evaluation`; a metric that was left out is still wanted."""
        left_out = self.status == "partial" and f"{evaluation.task} without " in (self.reason or "")
        return not left_out and any(score.eval == evaluation for score in self.scores)


class Manifest(Record):
    """Provenance of an adapter.

    `initialised`: the start point of the run `result`, before training. `trained`: its outcome. `start` is the key of that
    start point, the same for every run that begins there (None: version 0.1 wrote it). `files` holds the sha256 of every file
    but the card and this one.
    """

    schema_version: Literal[1] = 1
    kind: AdapterKind
    result: RunResult
    start: str | None = None
    files: dict[str, str]

    @property
    def anchored(self) -> bool:
        """Whether the start point needs the anchor merged into the base."""
        return any(PurePosixPath(path).parts[0] == ANCHOR for path in self.files)

    def json_text(self) -> str:
        """The content of `hubinit.json`; equal manifests give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    def write(self, folder: Path) -> Path:
        """Writes `hubinit.json` into the adapter's folder; returns its path."""
        path = folder / MANIFEST
        write_atomically(path, self.json_text())
        return path

    def problem(self, folder: Path) -> str | None:
        """The first file that is missing from `folder` or is not the one described here; None when all are as they were."""
        for name, digest in self.files.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                return name
        return None


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
        before = self.readable(result.key)
        if result.status in {"failed", "diverged"} and before is not None and before.status in {"ok", "partial"}:
            result = before.model_copy(update={"status": "partial", "reason": result.reason})
        folder = self.folder(result.key)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "result.json", result.model_dump_json(indent=1) + "\n")
        return result

    def write_items(self, key: str, scored: Sequence[Score], items: Sequence[Item]) -> list[Score]:
        """Stores the item records of one evaluation of a run; returns its scores, which now name them."""
        path = self.folder(key) / ITEMS / items_name(scored[0].eval)
        digest = write_items(path, items)
        return [score.model_copy(update={"items": digest}) for score in scored]

    def forget(self, key: str) -> None:
        """Drops a stored result, before its adapter is made anew."""
        (self.folder(key) / "result.json").unlink(missing_ok=True)

    def readable(self, key: str, on_problem: Callable[[str], None] = lambda problem: None) -> RunResult | None:
        """As `read`, but a damaged result counts as missing; `on_problem` is told."""
        try:
            return self.read(key)
        except HubinitError as error:
            on_problem(str(error))
            return None

    def results(self, on_problem: Callable[[str], None] = lambda problem: None) -> Iterator[RunResult]:
        """All stored results, by key; one that cannot be read is passed over, and `on_problem` is told."""
        for path in sorted(self.root.glob("runs/*/result.json")):
            try:
                yield read_result(path)
            except HubinitError as error:
                on_problem(str(error))


def items_name(evaluation: EvalSpec) -> str:
    """The file name of the item records of an evaluation."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', evaluation.task.lower())}-{evaluation.key}.parquet"


def write_items(path: Path, items: Sequence[Item]) -> str:
    """Writes item records as one compressed parquet file, atomically; returns its sha256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        item.model_dump() | {name: list(getattr(item, name).items()) for name in ("extracted", "values")}
        for item in items
    ]
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_items_schema()), content, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue().to_pybytes())
    return sha256_of(path)


def read_items(path: Path, sha256: str | None = None) -> list[Item]:
    """Reads item records.

    Args:
        path: the file.
        sha256: that it must have, where a score says so.

    Raises:
        HubinitError: the file is missing, damaged, or not the one that the score was made from.
    """
    import pyarrow as pa

    try:
        return [_item(row) for batch in _batches(path, sha256) for row in batch.to_pylist()]
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise _not_items(path, error) from error


def read_values(path: Path, sha256: str, metric: str) -> tuple[list[str], list[str], list[float]] | None:
    """Reads ids, hashes of the prompts, and the values of one metric of item records, and nothing else of them.

    Returns:
        The three lists in the order of the file; None where an item has no such value, or there are no items.

    Raises:
        HubinitError: as `read_items`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        ids, prompts, values = list[str](), list[str](), list[float]()
        for batch in _batches(path, sha256, ["id", "prompt_hash", "values"]):
            maps = batch.column("values")
            names = maps.keys.dictionary_decode()
            found = np.flatnonzero(pc.equal(names, metric).to_numpy(zero_copy_only=False))  # pc.map_lookup is slow
            rows = np.searchsorted(maps.offsets.to_numpy(), found, side="right") - 1
            if not np.array_equal(rows, np.arange(len(maps))):
                return None
            ids += batch.column("id").to_pylist()
            prompts += batch.column("prompt_hash").to_pylist()
            values += maps.items.to_numpy(zero_copy_only=False)[found].tolist()
        return (ids, prompts, values) if ids else None
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise _not_items(path, error) from error


def _batches(path: Path, sha256: str | None, columns: list[str] | None = None) -> Iterator[Any]:
    """The item records in a file, once it is the one meant; others may have written it.

    A few kilobytes can claim to be gigabytes. So what the file says about itself is checked first, and texts are read as
    dictionaries: one that all rows share is stored once, and counted as often as it would be unpacked.
    """
    import pyarrow.parquet as pq

    if sha256 is not None and sha256_of(path) != sha256:
        raise ValueError("it was changed since")
    metadata = pq.read_metadata(path)
    if not metadata.schema.to_arrow_schema().equals(_items_schema()):
        raise ValueError("its columns are not those of item records")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    parts = [group.column(number) for group in groups for number in range(group.num_columns)]
    bytes_of = sum(part.total_uncompressed_size for part in parts)
    cells = max((part.num_values for part in parts), default=0)
    if max(metadata.num_rows, cells // ITEM_CELLS) > ITEM_ROWS or bytes_of > ITEM_BYTES:
        raise ValueError(f"it holds more than {ITEM_ROWS} items or {ITEM_BYTES // 2**20} MiB")
    texts = {part.path_in_schema for part in parts if part.physical_type == "BYTE_ARRAY"}
    size = 0
    file = pq.ParquetFile(path, metadata=metadata, read_dictionary=sorted(texts))
    for batch in file.iter_batches(batch_size=4096, columns=columns, use_threads=False):
        size += sum(_unpacked(column) for column in batch.columns)
        if size > ITEM_BYTES:
            raise ValueError(f"it holds more than {ITEM_BYTES // 2**20} MiB")
        yield batch


def _unpacked(column: Any) -> int:
    """The bytes of a column's texts and numbers, each text as often as it occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.DictionaryArray):
        return pc.sum(pc.binary_length(column.dictionary).take(column.indices).cast(pa.int64())).as_py() or 0
    if isinstance(column, pa.MapArray):
        return _unpacked(column.keys) + _unpacked(column.items)
    if isinstance(column, pa.ListArray):
        return _unpacked(column.flatten())
    return int(column.nbytes)


def _not_items(path: Path, error: Exception) -> HubinitError:
    return HubinitError(f"{path} does not hold the item records of this score: {first_line(error)}.")


def _item(row: dict[str, Any]) -> Item:
    return Item.model_validate(row | {name: dict(row[name]) for name in ("extracted", "values")})


def _items_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "prompt_hash": pa.string(),
            "outputs": pa.list_(pa.string()),
            "extracted": pa.map_(pa.string(), pa.string()),
            "values": pa.map_(pa.string(), pa.float64()),
            "log_likelihoods": pa.list_(pa.float64()),
            "detail": pa.string(),
            "seen": pa.bool_(),
        }
    )


def read_result(path: Path) -> RunResult:
    """Reads one result JSON, of this version of hubinit or of an older one.

    Raises:
        HubinitError: the file is damaged, edited, not a result, or of a newer version.
    """
    try:
        raw = json.loads(path.read_bytes())
        if (
            isinstance(raw, dict)
            and isinstance(raw.get("schema_version"), int)
            and raw["schema_version"] > SCHEMA_VERSION
        ):
            raise ValueError("a newer hubinit wrote it: update hubinit")
        result = RunResult.model_validate(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise HubinitError(
            f"{path} is not a readable run result ({first_line(error)}); delete it to run it again."
        ) from error
    if result.key != expected_key(raw):
        raise HubinitError(f"{path} was edited: its key does not match its specification; delete it to run it again.")
    return result


def expected_key(raw: dict[str, Any]) -> str:
    """The key that a stored result must have: version 0.1 hashed the specification as it is stored, defaults included."""
    if raw.get("schema_version", 1) == 1:
        return key_of(canonical(raw["spec"], without=frozenset({"memory_budget"})))
    return RunSpec.model_validate(raw["spec"]).key
