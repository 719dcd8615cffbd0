"""How often the 95 % intervals of paired differences hold the truth, over designs and variance components; records the shares.

    python benchmarks/interval_coverage.py --tables 4000 --out benchmarks/results/interval_coverage.json

Differences are drawn from the model of two crossed random factors (`hubinit.leaderboard.paired`) with mean 0, so the share of
p-values below 5 % is one minus the coverage.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from hubinit.leaderboard.paired import two_way

PARTS = [(0.0, 0.0, 1.0), (0.0, 0.3, 0.3), (0.02, 0.2, 0.3), (0.05, 0.2, 0.3), (0.2, 0.2, 0.3), (0.5, 0.1, 0.3)]


def main() -> None:
    """Simulates and prints one line for each design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--seeds", default="1,2,3,5,10")
    parser.add_argument("--items", default="30,100,400")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    found = []
    designs = product(map(int, options.seeds.split(",")), map(int, options.items.split(",")), PARTS)
    for seeds, items, (by_seed, by_item, rest) in designs:
        covered = 0
        for _ in range(options.tables):
            draw = generator.standard_normal
            table = by_seed * draw((seeds, 1)) + by_item * draw((1, items)) + rest * draw((seeds, items))
            difference = two_way(table)  # [seeds, items]
            covered += difference.low <= 0 <= difference.high
        line = {"seeds": seeds, "items": items, "by_seed": by_seed, "by_item": by_item, "rest": rest}
        found.append(line | {"coverage": round(covered / options.tables, 4)})
        print(json.dumps(found[-1]), flush=True)
    if options.out:
        options.out.write_text(
            json.dumps({"tables": options.tables, "designs": found}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
