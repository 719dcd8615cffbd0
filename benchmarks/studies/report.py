"""What the ARC-Easy study says so far: every finished run, differences to LoRA at each rate and at each method's own.

    python benchmarks/studies/report.py --runs study

All differences are paired question by question and seed by seed, with 95 % intervals (`hubinit.leaderboard`). Methods with A
frozen are compared with LoRA with A frozen. Writes benchmarks/results/studies/arc_easy.json and arc_easy.md; while runs are
missing, both say how many.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from arc_easy import plan_study

from hubinit.leaderboard.build import build, open_items
from hubinit.leaderboard.comparison import Row, compare, compare_losses, is_untrained
from hubinit.leaderboard.items import Items
from hubinit.leaderboard.paired import Difference
from hubinit.leaderboard.sweeps import records
from hubinit.paths import write_atomically
from hubinit.records import ResultStore
from hubinit.runs.costs import provenance

RESULTS = Path(__file__).parents[1] / "results" / "studies"
KEPT = ("method", "optimiser", "lr", "seed", "value", "stderr", "validation_loss", "seconds_train", "key")


@dataclass(frozen=True)
class Line:
    """A method and optimiser at one rate, beside LoRA with that optimiser.

    Attributes:
        method: and `optimiser`, `lr`: what was run.
        seeds: how many are finished.
        value: mean accuracy.
        validation_loss: mean.
        difference: of the accuracy to LoRA at the same rate (in `by_rate`) or at its own best rate (in `tuned`); None for itself.
        low: of its 95 % interval; with one seed that of the questions alone.
        high: of the same.
        loss_difference: of the validation loss; below 0 is better.
    """

    method: str
    optimiser: str
    lr: float
    seeds: int
    value: float
    validation_loss: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    loss_difference: float | None = None


def main() -> None:
    """Reads the finished runs and writes what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the study's runs")
    folder = parser.parse_args().runs
    planned = plan_study(ResultStore(folder))
    with tempfile.TemporaryDirectory() as board:
        keys = {run.spec.key for run in planned}
        rows = [row for row in records(build([("study", folder)], [], Path(board)).runs) if row["key"] in keys]
        items = open_items(Path(board))
    scored = [row for row in rows if row["primary"] and row["value"] is not None]
    base = [row for row in scored if is_untrained(row)]
    trained = [row for row in scored if not is_untrained(row)]
    failed = sorted({(row["method"], row["lr"], row["seed"], row["status"]) for row in rows if row["status"] != "ok"})
    found = {
        "finished": len(scored),
        "planned": len(planned),
        "base": base[0]["value"] if base else None,
        "tuned": [asdict(line) for line in lines(trained, items, tuned=True)],
        "by_rate": [asdict(line) for line in lines(trained, items, tuned=False)],
        "failed": failed,
        "runs": [{name: row[name] for name in KEPT} for row in scored],
        **provenance("python benchmarks/studies/report.py --runs RUNS").model_dump(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / "arc_easy.json", json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    write_atomically(RESULTS / "arc_easy.md", text)
    print(text)


def lines(rows: Sequence[Row], items: Items, *, tuned: bool) -> Iterator[Line]:
    """Each method at each rate, or at the one with the lowest validation loss among those with the most seeds."""
    at: dict[tuple[str, str], dict[float, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: (row["optimiser"], row["method"], row["lr"], row["seed"])):
        at.setdefault((row["method"], row["optimiser"]), {}).setdefault(row["lr"], []).append(row)
    for (method, optimiser), rates in at.items():
        plain = at.get(("lora", optimiser), {})
        for lr in [best(rates)] if tuned else sorted(rates):
            beside = plain.get(best(plain) if tuned and plain else lr, [])
            line = Line(method, optimiser, lr, len(rates[lr]), *map(fmean, zip(*map(shown, rates[lr]), strict=True)))
            yield line if method == "lora" or not beside else differing(line, rates[lr], beside, items)


def best(rates: dict[float, list[Row]]) -> float:
    """The rate with the lowest mean validation loss; a rate at which seeds are missing is not chosen."""
    most = max(map(len, rates.values()))
    whole = (lr for lr, rows in rates.items() if len(rows) == most)
    return min(whole, key=lambda lr: fmean(row["validation_loss"] for row in rates[lr]))


def shown(row: Row) -> tuple[float, float]:
    """Accuracy and validation loss."""
    return row["value"], row["validation_loss"]


def differing(line: Line, rows: list[Row], beside: list[Row], items: Items) -> Line:
    """A line with its differences."""
    score, loss = compare(rows, beside, items), compare_losses(rows, beside)
    return Line(**asdict(line) | told(score) | {"loss_difference": number(loss.mean)})


def told(score: Difference) -> dict[str, float | None]:
    """A difference of accuracies with its interval."""
    return {"difference": number(score.mean), "low": number(score.low), "high": number(score.high)}


def number(value: float) -> float | None:
    """None for what is not known."""
    return value if math.isfinite(value) else None


def markdown(found: dict) -> str:
    """Both tables for people."""
    base = f"; the base itself: {100 * found['base']:.1f} %" if found["base"] is not None else ""
    parts = [f"{found['finished']} of {found['planned']} runs are finished{base}. Accuracy in percent.\n"]
    for title, name in (
        ("Each at the rate with its lowest validation loss", "tuned"),
        ("At each rate", "by_rate"),
    ):
        parts.append(f"## {title}\n")
        parts.append("| method | optimiser | LR | seeds | accuracy | vs lora, 95 % | val. loss | vs lora |")
        parts.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        parts += [in_table(Line(**line)) for line in found[name]]
        parts.append("")
    parts += [
        f"Not finished: {method}, LR {lr:g}, seed {seed}: {status}" for method, lr, seed, status in found["failed"]
    ]
    return "\n".join(parts)


def in_table(line: Line) -> str:
    """A line of a Markdown table."""
    known = line.difference is not None and line.low is not None and line.high is not None
    beside = f"{100 * line.difference:+.1f} [{100 * line.low:+.1f}, {100 * line.high:+.1f}]" if known else "–"
    loss = f"{line.loss_difference:+.4f}" if line.loss_difference is not None else "–"
    cells = [line.method, line.optimiser, f"{line.lr:g}", str(line.seeds), f"{100 * line.value:.1f}", beside]
    return f"| {' | '.join([*cells, f'{line.validation_loss:.4f}', loss])} |"


if __name__ == "__main__":
    main()
