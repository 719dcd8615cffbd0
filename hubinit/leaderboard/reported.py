"""What papers report, kept apart from what was measured here: facts of `registry/reported.csv`, with their sources."""

import csv
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

PERCENT = ("accuracy", "pass@1")  # printed in percent; here 0 to 1, like measured ones


@lru_cache(maxsize=1)
def reported() -> tuple[dict[str, Any], ...]:
    """One row for each published number, in the order of the file, with columns of `SummaryRow`.

    Accuracies are 0 to 1; other metrics are as the paper prints them. Model names are Hub ids where the registry has an alias.
    """
    registry = files("hubinit") / "registry"
    aliases = yaml.safe_load((registry / "models.yaml").read_text("utf-8"))
    lines = csv.DictReader((registry / "reported.csv").read_text("utf-8").splitlines())
    return tuple(_row(line, aliases) for line in lines)


def _row(line: dict[str, str], aliases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    scale = 0.01 if line["metric"] in PERCENT else 1.0
    return {
        "origin": "reported",
        "source": f"{line['source']}, {line['table']}",
        "model": aliases.get(line["model"], {}).get("id", line["model"]),
        "method": line["method"],
        "task": line["task"],
        "metric": line["metric"],
        "value": round(float(line["value"]) * scale, 6),
        "std": round(float(line["std"]) * scale, 6) if line["std"] else None,
    }
