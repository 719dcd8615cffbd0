"""The ranking as boards: for each model, evaluation and training setting the lines and columns of one table, as texts."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from hubinit.leaderboard.ranking import LINE
from hubinit.leaderboard.rows import RATING
from hubinit.leaderboard.settings import OWN_SEEDS, TRAINING
from hubinit.specs import DEFAULT_OPTIMISER, Recipe
from hubinit.text import one_line

NOTHING = "–"
BOARD = ["model", "revision", "dtype", "limit", "shots", *TRAINING]  # what the lines of one table share
# In a title only where two would be the same.
TOLD_APART = ["revision", "limit", "alpha", "rslora", "target_modules", "validation_samples", "recipe", *OWN_SEEDS]
SEEDS, SAMPLING, BOTH = "± seeds", "± sampling", "± both"
LEGEND = {
    SEEDS: "the standard deviation over seeds",
    SAMPLING: "the standard error of the scored examples",
    BOTH: "the spread over seeds and the error of the scored examples together",
}


@dataclass(frozen=True)
class Cell:
    """One cell; `best` is printed bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column: its name, what ± means in it ("" where there is none), and a cell for each line."""

    name: str
    error: str
    cells: tuple[Cell, ...]

    @property
    def width(self) -> int:
        """Characters of its widest cell or heading."""
        return max(len(self.name), len(self.error), *(len(cell.text) for cell in self.cells))


@dataclass(frozen=True)
class Board:
    """One table: a line for each method, columns from the most telling to the least, and a note below."""

    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    note: str


def boards(ranking: pd.DataFrame) -> Iterator[Board]:
    """The tables of a ranking (from `rank`): one for each model, its dtype, evaluation and training setting."""
    settings = [setting for _, setting in ranking.groupby(BOARD, dropna=False, sort=True)]
    for title, setting in zip(_titles([setting.iloc[0] for setting in settings]), settings, strict=True):
        setting = _as_printed(setting).assign(column=_task_columns(setting))
        tasks = list(dict.fromkeys(setting["column"]))
        groups = [group for _, group in setting.groupby(LINE, dropna=False, sort=False)]
        labels = _labels([group.iloc[0] for group in groups])
        lines = [_line(group, tasks, label) for group, label in zip(groups, labels, strict=True)]
        lines.sort(key=lambda line: (-line.value if math.isfinite(line.value) else math.inf, line.label))
        columns = tuple(_columns(setting, lines, tasks))
        yield Board(one_line(title), tuple(one_line(line.label) for line in lines), columns, _note(columns, lines))


def _as_printed(setting: pd.DataFrame) -> pd.DataFrame:
    """Shares are printed in percent, a hundredfold; this makes ratings come out as they are."""
    numbers = ["value", "std", "stderr", "default", "delta", "delta_stderr"]
    scale = setting["metric"].map(lambda metric: 0.01 if metric == RATING else 1.0)
    return setting.assign(**{name: setting[name].astype(float) * scale for name in numbers})


@dataclass(frozen=True)
class _Line:
    label: str
    scores: dict[str, "pd.Series"]  # by column
    value: float  # mean over tasks at the chosen learning rate; NaN unless every task was scored
    error: float  # its standard error √(Σ se²)/k over the k tasks; NaN where one is unknown
    default: float  # the same at the default learning rate
    delta: str
    place: str  # of a board with one task: with ties, and a star where the difference to LoRA is marked
    loss: str
    lr: str
    seeds: str
    n: str
    init_seconds: str
    unadapted: int
    failed: int
    contaminated: dict[str, int]  # by column; only where there are some


def _columns(setting: pd.DataFrame, lines: list[_Line], tasks: list[str]) -> Iterator[Column]:
    """The columns of a board, the most telling first; those that say nothing here are left out."""
    trained = setting[setting["lr"].notna()]
    error = SEEDS if len(trained) and (trained["seeds"] > 1).all() else SAMPLING
    scores = [Column(task, error, tuple(_score(line.scores.get(task), error) for line in lines)) for task in tasks]

    def column(name: str, texts: list[str], error: str = "") -> Column:
        return Column(name, error, tuple(map(Cell, texts)))

    if len(tasks) > 1:
        yield column("mean", [_plus_minus(line.value, line.error) for line in lines], SAMPLING)
    else:
        yield from scores
    yield column("vs lora", [line.delta for line in lines], BOTH)
    if len(tasks) == 1 and setting["p_corrected"].notna().any():
        yield column("place", [line.place for line in lines])
    if any(line.loss != NOTHING for line in lines):
        yield column("val. loss", [line.loss for line in lines])
    if len(tasks) > 1:
        yield from scores
    if any(_tuned(setting)):
        yield column("at default LR", [_percent(line.default) for line in lines])
    yield column("LR", [line.lr for line in lines])
    yield column("seeds", [line.seeds for line in lines])
    yield column("n", [line.n for line in lines])
    yield column("init s", [line.init_seconds for line in lines])


def _note(columns: Sequence[Column], lines: Sequence[_Line]) -> str:
    """What the numbers mean, and what is missing behind them."""
    used = [error for error in LEGEND if any(column.error == error for column in columns)]
    rated = any(row["metric"] == RATING for line in lines for row in line.scores.values())
    parts = [
        "Scores in percent"
        + (", those of a judge from 1 to 10" if rated else "")
        + "".join(f"; {error}: {LEGEND[error]}" for error in used)
        + "."
    ]
    if any(column.name == "place" for column in columns):
        parts.append("Methods that share a place differ within chance; *: differs from lora beyond chance (5 %, Holm).")
    if unadapted := [f"{line.label} {line.unadapted}" for line in lines if line.unadapted]:
        parts.append(f"Modules left without an adapter: {', '.join(unadapted)}.")
    if failed := [f"{line.label} {line.failed}" for line in lines if line.failed]:
        parts.append(f"Runs without a score: {', '.join(failed)}.")
    if any(math.isnan(line.value) for line in lines) and len({name for line in lines for name in line.scores}) > 1:
        parts.append("Ratings and percentages have no mean." if rated else "No mean where a task has no score.")
    seen = {name: count for line in lines for name, count in line.contaminated.items()}
    if seen:
        parts.append(
            f"Test items in the training data: {', '.join(f'{name} {count}' for name, count in seen.items())}."
        )
    return " ".join(parts)


def _line(method: pd.DataFrame, tasks: list[str], label: str) -> _Line:
    first = method.iloc[0]
    scores = {row["column"]: row for _, row in method.iterrows()}
    alike = (method["metric"] == RATING).nunique() == 1  # ratings and shares have no mean
    complete = alike and len(scores) == len(tasks)
    delta, error = method["delta"].astype(float), method["delta_stderr"].astype(float)
    return _Line(
        label=label,
        scores=scores,
        value=float(method["value"].mean()) if complete else math.nan,
        error=float((method["stderr"].astype(float) ** 2).sum(skipna=False) ** 0.5) / len(method),
        default=float(method["default"].mean(skipna=False)) if complete else math.nan,
        delta=_plus_minus(
            float(delta.mean()) if alike else math.nan,
            float((error**2).sum(skipna=False) ** 0.5) / len(error),
            sign="+",
        ),
        place=NOTHING
        if pd.isna(first["place"])
        else f"{int(first['place'])}" + (" *" if pd.notna(first["mark"]) else ""),
        loss=NOTHING if pd.isna(first["validation_loss"]) else f"{float(first['validation_loss']):.4f}",
        lr=", ".join(f"{rate:g}" for rate in sorted(set(method["lr"].dropna()))) or NOTHING,
        seeds=_range(method["seeds"]),
        n=_range(method["n"]),
        init_seconds=NOTHING if pd.isna(first["init_seconds"]) else f"{float(first['init_seconds']):.1f}",
        unadapted=int(method["unadapted"].max()),
        failed=int(method["failed"].max()),
        contaminated={row["column"]: int(row["contaminated"]) for row in scores.values() if row["contaminated"]},
    )


def _score(row: "pd.Series | None", error: str) -> Cell:
    """Median over seeds ± what the column's heading says; a single seed has no spread."""
    if row is None:
        return Cell(NOTHING)
    spread = row["std"] if error == SEEDS else row["stderr"]
    return Cell(_plus_minus(float(row["value"]), math.nan if pd.isna(spread) else float(spread)), bool(row["best"]))


def _task_columns(setting: pd.DataFrame) -> list[str]:
    """The column that each row belongs in: its task, with metric, data revision and judge where a task has several."""
    several = {
        task
        for task, rows in setting.groupby("task")
        if len(rows[["data_revision", "metric", "judge"]].drop_duplicates()) > 1
    }
    return [_whole_name(row) if row["task"] in several else str(row["task"]) for _, row in setting.iterrows()]


def _whole_name(row: "pd.Series") -> str:
    name = f"{row['task']} {row['metric']} {str(row['data_revision'])[:8]}"
    return f"{name} by {row['judge']}" if pd.notna(row["judge"]) else name


def _labels(methods: list["pd.Series"]) -> list[str]:
    """Names of the lines, with an optimiser that is not the default, and with what tells lines of one method apart.

    These are the options, and where they are the same, version and calibration examples.
    """
    labels = []
    for one in methods:
        same = [other for other in methods if other["method"] == one["method"]]
        alike = [other for other in same if other["options"] == one["options"]]
        parts = [one["optimiser"]] if one["optimiser"] != DEFAULT_OPTIMISER and pd.notna(one["optimiser"]) else []
        parts += [f"{k}={v}" for k, v in json.loads(one["options"]).items()] if len(same) > len(alike) else []
        if one["method"] == "none" and pd.notna(one["lr"]):
            parts.append("linear probe")
        parts += [f"rank {int(one['own_rank'])}"] if pd.notna(one["own_rank"]) else []
        parts += [f"alpha {one['own_alpha']:g}"] if pd.notna(one["own_alpha"]) else []
        if _differ(alike, "method_version"):
            parts.append(f"version {one['method_version']}")
        if _differ(alike, "calibration_samples"):
            samples = one["calibration_samples"]
            parts.append("no calibration" if pd.isna(samples) else f"{int(samples)} calibration examples")
        if _differ(alike, "calibration"):
            settings = json.loads(one["calibration"] or "{}") if pd.notna(one["calibration"]) else {}
            parts += [f"{name}={value}" for name, value in settings.items()] or ["default calibration"]
        labels.append(one["method"] + (f" ({', '.join(parts)})" if parts else ""))
    return labels


def _differ(rows: list["pd.Series"], column: str) -> bool:
    return len({None if pd.isna(row[column]) else row[column] for row in rows}) > 1


def _tuned(setting: pd.DataFrame) -> Iterator[bool]:
    return (pd.notna(lr) and lr != default for lr, default in zip(setting["lr"], setting["default_lr"], strict=True))


def _titles(rows: list["pd.Series"]) -> list[str]:
    """Titles of the boards; those that would be the same also name what tells them apart."""
    short = [_title(row) for row in rows]
    titles = []
    for row, title in zip(rows, short, strict=True):
        alike = [other for other, its in zip(rows, short, strict=True) if its == title]
        parts = [_setting(row, name) for name in TOLD_APART if _differ(alike, name)]
        titles.append(", ".join([title, *parts]))
    return titles


def _setting(row: "pd.Series", name: str) -> str:
    match name:
        case "alpha":
            return f"alpha {row['alpha']:g}"
        case "rslora":
            return "rsLoRA" if row["rslora"] else "no rsLoRA"
        case "limit":
            return "all test examples" if pd.isna(row["limit"]) else f"the first {int(row['limit'])} test examples"
        case "target_modules":
            return f"on {row['target_modules']}"
        case "validation_samples":
            return f"{row['validation_samples']} held out"
        case "recipe":
            settings = json.loads(row["recipe"]) if pd.notna(row["recipe"]) else {}
            return ", ".join(f"{name} {value}" for name, value in settings.items())
        case "data_seed" | "init_seed" | "dropout_seed":
            return f"{name} {'the seed' if pd.isna(row[name]) else row[name]}"
        case _:
            return f"revision {str(row['revision'])[:8]}"


def _title(row: "pd.Series") -> str:
    parts = [str(row["model"]), *([str(row["dtype"])] if pd.notna(row["dtype"]) else [])]
    learned = pd.notna(row["train_data"])
    parts.append(f"rank {row['rank']}" if row["rank"] else "linear probe" if learned else "not trained")
    if learned:
        samples = f" ({int(row['train_samples'])} examples)" if pd.notna(row["train_samples"]) else ""
        parts.append(f"trained on {row['train_data']}{samples}")
    if pd.notna(row["recipe"]):
        recipe = Recipe().model_dump() | json.loads(row["recipe"])
        epochs = f"{recipe['epochs']:g} epoch{'' if recipe['epochs'] == 1 else 's'}"
        parts.append(f"{recipe['steps']} steps" if recipe["steps"] else epochs)
        parts[-1] += f" of {recipe['batch_size']}"
    parts.append("zero-shot" if row["shots"] == 0 else f"{row['shots']}-shot")
    return ", ".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else NOTHING


def _plus_minus(value: float, error: float, sign: str = "") -> str:
    if not math.isfinite(value):
        return NOTHING
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if math.isfinite(error) else "")


def _range(values: "pd.Series") -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"
