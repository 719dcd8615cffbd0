"""What hubinit itself takes of a benchmark's time: start, plan, gates, saving, and publishing to an embedded Hub.

    python benchmarks/run_overhead.py --out FOLDER [--record]

Real runs of about a minute on a real model (`make bench` with more steps). Every result holds the seconds of its stages (load,
calibrate, initialise, train, diagnose, evaluate); what the command took beyond their sum is hubinit's own. The same command once
more, with nothing left to do, shows what of that is the start, the plan and the table at the end.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from hubinit.records import ResultStore
from hubinit.runs.costs import hardware, provenance

HUBINIT = str(Path(sys.executable).with_name("hubinit"))
RECORD = Path(__file__).parent / "results" / "run_overhead.json"


def main() -> int:
    """Runs the command twice, and compares with the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--methods", default="lora,pissa,milora,dora")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    options = parser.parse_args()
    subprocess.run([HUBINIT, "hub", "seed", "smollm2-135m", "arc"], check=True)
    command = [
        *(HUBINIT, "bench", "--hub", "embedded", "--protocol", "quickstart", "--models", "smollm2-135m"),
        *("--methods", options.methods, "--tasks", "arc-easy", "--set", f"recipe.steps={options.steps}"),
        *("--push-to", "local", "--out", str(options.out), "--json"),
    ]
    first, again = seconds_of(command), seconds_of(command)
    results = list(ResultStore(options.out).results())
    stages = [sum(cost.seconds for cost in result.costs.values()) for result in results]
    own = (first - sum(stages)) / len(results)
    found = {
        "command": " ".join(("python benchmarks/run_overhead.py", *sys.argv[1:])),
        "hardware": hardware(),
        "versions": provenance("").versions,
        "runs": len(results),
        "seconds": first,
        "stage_seconds_per_run": [round(one, 2) for one in stages],
        "seconds_with_nothing_to_do": again,
        "own_seconds_per_run": own,
        "own_share_of_a_60_s_run": own / 60,
    }
    print(json.dumps(found, indent=1))
    if options.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def seconds_of(command: list[str]) -> float:
    """Runs a command; how long it took."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
