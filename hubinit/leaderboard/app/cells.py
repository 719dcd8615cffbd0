"""What stands in a cell: the columns of the ranking, and numbers as people read them."""

from collections.abc import Callable
from dataclasses import dataclass

from hubinit.leaderboard.comparison import Row
from hubinit.leaderboard.reported import PERCENT
from hubinit.leaderboard.rows import printed
from hubinit.leaderboard.settings import as_trained

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"
BETTER, WORSE = "▲ better", "▼ worse"


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        name: in the query string, and of the value it sorts by.
        title: its heading.
        text: of a line.
        note: what it means, in the chooser.
        usual: whether it is shown unless the reader chooses.
        number: whether it is set to the right.
    """

    name: str
    title: str
    text: Callable[[Row], str]
    note: str = ""
    usual: bool = False
    number: bool = True


def scale(line: Row) -> float:
    """What a score is printed with: shares in percent, as papers print them."""
    if line["origin"] == "reported":
        return 100.0 if line["metric"] in PERCENT else 1.0
    return printed(line["metric"])


def number(value: float | None, form: str = ".1f") -> str:
    """A number, with a true minus sign."""
    return NOTHING if value is None else f"{value:{form}}".replace("-", MINUS)


def score(line: Row, value: float | None, form: str = ".1f") -> str:
    """A score as a paper prints it."""
    return NOTHING if value is None else number(scale(line) * value, form)


def interval(line: Row, low: float | None, high: float | None) -> str:
    """A 95 % interval of a difference of scores; nothing where it is unknown."""
    if low is None or high is None or low != low or high != high:
        return ""
    return f"[{score(line, low, '+.1f')}, {score(line, high, '+.1f')}]"


def duration(value: float | None) -> str:
    """Seconds, or longer units where they read better."""
    if value is None:
        return NOTHING
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def memory(value: float | None) -> str:
    """Bytes in GiB."""
    return NOTHING if value is None else f"{value / 2**30:.2f} GiB"


def setting(line: Row) -> str:
    """What the training of a line was, in a few words."""
    parts = [line["train_data"] or "not trained"]
    parts += [f"{line['train_samples']} examples"] if line["train_samples"] else []
    parts += [f"α {alpha:g}"] if (alpha := as_trained(line)["alpha"]) else []
    parts += [f"{line['limit']} test items at most"] if line["limit"] else []
    return ", ".join(parts)


def _score(line: Row) -> str:
    spread = line["std"] if line["std"] is not None else line["stderr"]
    return score(line, line["value"]) + (f" ± {score(line, spread)}" if spread is not None else "")


def _delta(line: Row) -> str:
    if line["delta"] is None:
        return NOTHING
    return f"{score(line, line['delta'], '+.1f')} {interval(line, line['delta_low'], line['delta_high'])}".strip()


def _mark(line: Row) -> str:
    return {"better": BETTER, "worse": WORSE}.get(line["mark"] or "", NOTHING)


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"


def _text(name: str) -> Callable[[Row], str]:
    return lambda line: NOTHING if line[name] is None else str(line[name])


def _number(name: str, form: str) -> Callable[[Row], str]:
    return lambda line: number(line[name], form)


COLUMNS = (
    Column("place", "Place", _text("place"), "those that share one differ within chance; needs two seeds", usual=True),
    Column("model", "Model", _text("model"), usual=True, number=False),
    Column("task", "Task", _text("task"), usual=True, number=False),
    Column("value", "Score ±", _score, "median over seeds ± their deviation, or the error of sampling", usual=True),
    Column("delta", "vs LoRA [95 %]", _delta, "paired question by question where the records allow it", usual=True),
    Column("mark", "Beyond chance", _mark, "at 5 % after Holm's correction", usual=True, number=False),
    Column("validation_loss", "Val. loss", _number("validation_loss", ".4f"), usual=True),
    Column("lr", "LR", _number("lr", "g"), "chosen by validation loss", usual=True),
    Column("seeds", "Seeds", _text("seeds"), usual=True),
    Column("seconds", "Init + train", lambda line: duration(line["seconds"]), usual=True),
    Column("peak_memory_bytes", "Memory", lambda line: memory(line["peak_memory_bytes"]), usual=True),
    Column("default", "At default LR", lambda line: score(line, line["default"])),
    Column("rank", "Rank", lambda line: _text("rank")(as_trained(line))),
    Column("optimiser", "Optimiser", _text("optimiser"), number=False),
    Column("family", "Family", _text("family"), "what the method looks at", number=False),
    Column("data_aware", "Sees data", _text("data_aware"), "whether it calibrates on training data", number=False),
    Column("protocol", "Protocol", _text("protocol"), number=False),
    Column("train_data", "Setting", setting, number=False),
    Column("metric", "Metric", _text("metric"), number=False),
    Column("n", "Test items", _text("n")),
    Column("forgetting", "Forgetting", _number("forgetting", "+.3f"), "nats per token on neutral text"),
    Column("best_share", "Best in", lambda line: _share(line["best_share"]), "of the bootstrap samples"),
    Column("reach_seconds", "To LoRA's loss", lambda line: duration(line["reach_seconds"])),
    Column("init_seconds", "Init", lambda line: duration(line["init_seconds"])),
    Column("items_needed", "Items needed", _text("items_needed"), "to show this difference with 80 % power"),
    Column("seeds_needed", "Seeds needed", _text("seeds_needed"), "likewise"),
    Column("failed", "Failed runs", _text("failed")),
    Column("source", "Source", _text("source"), "of a reported row", number=False),
)  # fmt: skip
BY_NAME = {column.name: column for column in COLUMNS} | {
    "method": Column("method", "Method", _text("method"), number=False)
}
USUAL = tuple(column.name for column in COLUMNS if column.usual)
OF_REPORTS = ("model", "task", "metric", "value", "source")
