"""Is a method charged what it would cost alone? The charge from a pass that all share, beside the same method run alone.

A run pays `calibration.seconds_for(its statistics)`, whoever else asked for sums in the same pass. Here that charge is compared
with the seconds of a calibration for this method only. Rounds alternate between all of them, because machines are shared;
medians are compared. On a quiet machine they should agree to 15 %. Writes a JSON record.

    python benchmarks/init_cost_check.py                                     # SmolLM2-135M from the embedded Hub
    python benchmarks/init_cost_check.py --shape smollm2-135m --layers 4     # a slice with random weights: no Hub
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from statistics import median
from typing import Any

from hubinit.cli.environment import connect
from hubinit.errors import HubinitError

RESULTS = Path(__file__).resolve().parent / "results"
TOLERANCE = 0.15


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default="smollm2-135m", help="alias, Hub id or folder (default: smollm2-135m)")
    what.add_argument("--shape", help="smollm2-135m, llama3.2-1b, llama3.2-3b or llama3-8b, with random weights")
    parser.add_argument("--layers", type=int, help="blocks of a slice of the shape")
    parser.add_argument("--hub", default="embedded", help="where the model is: embedded (default), offline or a URL")
    parser.add_argument("--tokens", type=int, default=8192, help="calibration tokens")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", help="cpu or cuda; default: a GPU when there is one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measures, prints the comparison, writes the record."""
    options = arguments()
    warnings.filterwarnings("ignore")
    try:
        if options.shape:
            return check(options)
        with connect(options.hub):
            return check(options)
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def check(options: argparse.Namespace) -> int:
    """The whole comparison; 1 when a charge is more than the tolerance away."""
    from init_report import DATA_AWARE
    from init_shapes import subject

    from hubinit.adapters.calibrating import statistics_of
    from hubinit.calibration import calibrate
    from hubinit.runs.costs import provenance

    what, load = subject(options), os.getloadavg()
    needs = {name: statistics_of(name, {}) for name in DATA_AWARE}
    union = frozenset().union(*needs.values())
    calibrate(what.model, what.batches[:1], statistics=union)  # warm-up
    shared: list[float] = []
    charged: dict[str, list[float]] = {name: [] for name in needs}
    alone: dict[str, list[float]] = {name: [] for name in needs}
    for _ in range(options.rounds):
        together = calibrate(what.model, what.batches, statistics=union)
        shared.append(together.seconds)
        for name, statistics in needs.items():
            charged[name].append(together.seconds_for(statistics))
            alone[name].append(calibrate(what.model, what.batches, statistics=statistics).seconds)
    rows = {name: compare(charged[name], alone[name]) for name in needs}
    print(f"{what.facts['name']}, {what.facts['dtype']} on {what.facts['device']}, {what.facts['tokens']} tokens")
    print(f"all in one pass: {median(shared):.2f} s\n{'method':<10}{'charged':>9}{'alone':>9}{'error':>8}")
    for name, row in rows.items():
        print(f"{name:<10}{row['charged']:>8.2f}s{row['alone']:>8.2f}s{row['error']:>+8.1%}")
    record = {
        **provenance("python benchmarks/init_cost_check.py").model_dump(mode="json"),
        "load_average": {"before": load, "after": os.getloadavg()},
        "subject": what.facts,
        "rounds": options.rounds,
        "tolerance": TOLERANCE,
        "shared_seconds": shared,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"init_cost_check-{what.facts['device']}-{what.facts['name'].replace('/', '_')}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    worst = max(rows.values(), key=lambda row: abs(row["error"]))
    print(f"Written: {file}")
    return int(abs(worst["error"]) > TOLERANCE)


def compare(charged: list[float], alone: list[float]) -> dict[str, Any]:
    """Medians, and how far the charge is from the method run alone."""
    middle, true = median(charged), median(alone)
    return {
        "charged": middle,
        "alone": true,
        "error": middle / true - 1,
        "seconds": {"charged": charged, "alone": alone},
    }


if __name__ == "__main__":
    sys.exit(main())
