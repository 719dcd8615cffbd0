"""The ranking as people read it: Markdown for the dataset card, a rich table for the terminal."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hubinit.hub.cards import escape
from leaderboard.ranking import METHOD, TRAINING

_NOTHING = "–"
_TOLD_APART = ["revision", "alpha", "rslora", "target_modules"]  # in a title only where two would be the same
FAILURES_SHOWN = 30  # in a card; the data have them all


@dataclass(frozen=True)
class Cell:
    """One cell; `best` is printed bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Board:
    """One table: methods down, tasks across."""

    title: str
    header: list[str]
    lines: list[list[Cell]]


def boards(ranking: pd.DataFrame) -> Iterator[Board]:
    """The tables of a ranking (from `leaderboard.aggregate.rank`): one per model and training setting."""
    by = ["model", "revision", *TRAINING]
    settings = [setting for _, setting in ranking.groupby(by, dropna=False, sort=True)]
    for title, setting in zip(_titles([setting.iloc[0] for setting in settings]), settings, strict=True):
        tasks = list(dict.fromkeys(setting["task"]))
        groups = [group for _, group in setting.groupby(METHOD, dropna=False, sort=False)]
        labels = _labels([group.iloc[0] for group in groups])
        lines = [_line(group, tasks, label) for group, label in zip(groups, labels, strict=True)]
        lines.sort(key=lambda line: (-line.value if math.isfinite(line.value) else math.inf, line.label))
        shown = {
            "method": [Cell(line.label) for line in lines],
            **{task: [line.scores[task] for line in lines] for task in tasks},
            "mean": [Cell(_percent(line.value)) for line in lines] if len(tasks) > 1 else None,
            "at default LR": [Cell(_percent(line.default)) for line in lines] if any(_tuned(setting)) else None,
            "vs lora": [Cell(line.delta) for line in lines],
            "LR": [Cell(line.lr) for line in lines],
            "seeds": [Cell(line.seeds) for line in lines],
            "n": [Cell(line.n) for line in lines],
            "init s": [Cell(line.init_seconds) for line in lines],
            "failed": [Cell(str(line.failed)) for line in lines] if setting["failed"].any() else None,
        }
        columns = {name: cells for name, cells in shown.items() if cells is not None}
        yield Board(title, list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)])


def markdown(ranking: pd.DataFrame, failures: pd.DataFrame | None = None) -> str:
    """The ranking as Markdown tables, every name escaped; `failures` from `leaderboard.aggregate.failures`."""
    parts = []
    for board in boards(ranking):
        body = [
            [f"**{escape(cell.text)}**" if cell.best else escape(cell.text) for cell in line] for line in board.lines
        ]
        parts.append(f"### {escape(board.title)}\n\n{_markdown_table(board.header, body, right=True)}")
    if failures is not None and len(failures):
        shown = failures.head(FAILURES_SHOWN).astype(str).to_numpy().tolist()
        body = [[escape(value) for value in line] for line in shown]
        parts.append(f"### Runs without a score\n\n{_markdown_table(list(failures.columns), body)}")
        if len(failures) > FAILURES_SHOWN:
            parts.append(f"… and {len(failures) - FAILURES_SHOWN} more in the data.")
    return "\n\n".join(parts) if parts else "No runs yet."


def terminal(ranking: pd.DataFrame, failures: pd.DataFrame | None = None) -> Group:
    """The same as something rich can print."""
    parts: list[Table | Text] = []
    for board in boards(ranking):
        table = Table(title=Text(board.title), title_justify="left")
        for number, name in enumerate(board.header):
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=number > 0)
        for line in board.lines:
            table.add_row(*(Text(cell.text, style="bold green" if cell.best else "") for cell in line))
        parts.append(table)
    if failures is not None and len(failures):
        table = Table(*map(str, failures.columns), title="Runs without a score", title_justify="left")
        for values in failures.astype(str).to_numpy().tolist():
            table.add_row(*map(Text, values))
        parts.append(table)
    return Group(*(parts or [Text("No runs yet.")]))


def _markdown_table(header: list[str], body: list[list[str]], right: bool = False) -> str:
    rule = ["---"] + ["---:" if right else "---"] * (len(header) - 1)
    head: list[str] = [escape(name) for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


@dataclass(frozen=True)
class _Line:
    label: str
    scores: dict[str, Cell]
    value: float  # mean over tasks at the chosen learning rate; NaN unless every task was scored
    default: float  # the same at the default learning rate
    delta: str
    lr: str
    seeds: str
    n: str
    init_seconds: str
    failed: int


def _labels(methods: list["pd.Series"]) -> list[str]:
    """Names of the lines: options where a method has several; version and calibration examples where those are the same."""
    labels = []
    for one in methods:
        same = [other for other in methods if other["method"] == one["method"]]
        alike = [other for other in same if other["options"] == one["options"]]
        parts = [f"{k}={v}" for k, v in json.loads(one["options"]).items()] if len(same) > len(alike) else []
        if _differ(alike, "method_version"):
            parts.append(f"version {one['method_version']}")
        if _differ(alike, "calibration_samples"):
            samples = one["calibration_samples"]
            parts.append("no calibration" if pd.isna(samples) else f"{int(samples)} calibration examples")
        labels.append(one["method"] + (f" ({', '.join(parts)})" if parts else ""))
    return labels


def _differ(rows: list["pd.Series"], column: str) -> bool:
    return len({None if pd.isna(row[column]) else row[column] for row in rows}) > 1


def _line(method: pd.DataFrame, tasks: list[str], label: str) -> _Line:
    first = method.iloc[0]
    by_task = {row["task"]: row for _, row in method.iterrows()}
    complete = len(by_task) == len(tasks)
    delta, error = method["delta"].astype(float), method["delta_stderr"].astype(float)
    return _Line(
        label=label,
        scores={task: _score(by_task.get(task)) for task in tasks},
        value=float(method["value"].mean()) if complete else math.nan,
        default=float(method["default"].mean(skipna=False)) if complete else math.nan,
        delta=_plus_minus(float(delta.mean()), float((error**2).sum(skipna=False) ** 0.5) / len(error), sign="+"),
        lr=", ".join(f"{rate:g}" for rate in sorted(set(method["lr"].dropna()))) or _NOTHING,
        seeds=_range(method["seeds"]),
        n=_range(method["n"]),
        init_seconds=_NOTHING if pd.isna(first["init_seconds"]) else f"{float(first['init_seconds']):.1f}",
        failed=int(method["failed"].max()),
    )


def _score(row: "pd.Series | None") -> Cell:
    """Median ± standard deviation over seeds, or ± the binomial standard error when there is one seed."""
    if row is None:
        return Cell(_NOTHING)
    spread = row["std"] if row["seeds"] > 1 else row["stderr"]
    return Cell(_plus_minus(float(row["value"]), math.nan if pd.isna(spread) else float(spread)), bool(row["best"]))


def _tuned(setting: pd.DataFrame) -> Iterator[bool]:
    return (pd.notna(lr) and lr != default for lr, default in zip(setting["lr"], setting["default_lr"], strict=True))


def _titles(rows: list["pd.Series"]) -> list[str]:
    """Titles of the boards; those that would be the same also name what tells them apart."""
    short = [_title(row) for row in rows]
    titles = []
    for row, title in zip(rows, short, strict=True):
        alike = [other for other, its in zip(rows, short, strict=True) if its == title]
        parts = [_setting(row, name) for name in _TOLD_APART if _differ(alike, name)]
        titles.append(", ".join([title, *parts]))
    return titles


def _setting(row: "pd.Series", name: str) -> str:
    if name == "alpha":
        return f"alpha {row['alpha']:g}"
    if name == "rslora":
        return "rsLoRA" if row["rslora"] else "no rsLoRA"
    return f"on {row['target_modules']}" if name == "target_modules" else f"revision {str(row['revision'])[:8]}"


def _title(row: "pd.Series") -> str:
    parts = [str(row["model"]), f"rank {row['rank']}" if row["rank"] else "not trained"]
    if pd.notna(row["train_data"]):
        samples = f" ({int(row['train_samples'])} examples)" if pd.notna(row["train_samples"]) else ""
        parts.append(f"trained on {row['train_data']}{samples}")
    recipe = json.loads(row["recipe"]) if pd.notna(row["recipe"]) else {}
    if recipe:
        length = f"{recipe['steps']} steps" if recipe.get("steps") else f"{recipe.get('epochs', 1):g} epochs"
        parts.append(f"{length} of {recipe.get('batch_size')}")
    parts.append("zero-shot" if row["shots"] == 0 else f"{row['shots']}-shot")
    return ", ".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else _NOTHING


def _plus_minus(value: float, error: float, sign: str = "") -> str:
    if not math.isfinite(value):
        return _NOTHING
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if math.isfinite(error) else "")


def _range(values: "pd.Series") -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"
