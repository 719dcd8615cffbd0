"""A sweep on a Ray cluster that loses nodes: are the results those of an undisturbed sweep on one machine?

`python benchmarks/sweep_ray.py --out FOLDER [--kills 3] [--runs 24] [--seed 0]`; it needs `pip install "hubinit[ray]"`.

The runs are those of `sweep_storm.py`: tiny and real. One sweep goes through on this machine. Then the same runs are swept by a
cluster of three nodes, all on this machine with a core each; at seeded random moments one of them is killed with all that it
runs, and a new one takes its place. At the end the two folders must hold the same results and adapters.
"""

import argparse
import json
import random
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sweep_storm import compare, noted, specs
from hubinit.records import ResultStore
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.ray import RayExecutor
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.executors.spec import Executor, Places
from hubinit.runs.job import Busy, Event, Progress
from hubinit.runs.plan import PlannedRun
from hubinit.runs.sweep import sweep

WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from benchmarks.sweep_storm import prepare
from hubinit.runs import worker
prepare(Path(sys.argv[2]))
worker.main()
"""
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main() -> int:
    """Sweeps twice, compares, and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in (("kills", 3), ("runs", 24), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    seen = lose_nodes(options.out.absolute(), options.kills, options.runs, options.seed)
    (options.out / "sweep-ray.json").write_text(json.dumps(seen, indent=1) + "\n")
    print(json.dumps(seen, indent=1))
    return 1 if seen["problems"] else 0


def lose_nodes(out: Path, kills: int, runs: int, seed: int) -> dict[str, Any]:
    """Sweeps on this machine, then on a cluster that loses nodes, and compares."""
    import ray
    from ray.cluster_utils import Cluster

    from tests import texts

    base = out / "model"
    if not base.exists():
        texts.save_model(base)
    calm, wild = out / "calm", out / "wild"
    alone = sweep_into(calm, base, runs, SlotExecutor([WorkerProcess(command(calm))]), lambda event: None)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(**NODE) for _ in range(3)]
    dice, killed, lost = random.Random(seed), 0, 0
    due = time.monotonic()

    def kill(event: Event) -> None:
        nonlocal killed, lost, due
        lost += isinstance(event, Busy) and "lost" in event.holder
        if (
            not isinstance(event, Progress)
            or event.stage.startswith("on ")
            or killed == kills
            or time.monotonic() < due
        ):
            return
        time.sleep(dice.uniform(0.0, 2.0))
        cluster.remove_node(nodes.pop(dice.randrange(len(nodes))), allow_graceful=False)
        nodes.append(cluster.add_node(**NODE))
        killed, due = killed + 1, time.monotonic() + 20

    executor = RayExecutor(Places(address=cluster.address), partial(WorkerProcess, command(wild)))
    together = sweep_into(wild, base, runs, executor, kill)
    ray.shutdown()
    cluster.shutdown()
    return {
        "nodes_killed": killed,
        "runs_interrupted": lost,
        "seconds_on_one_worker": round(alone),
        "seconds_on_three_nodes": round(together),
        "calibrations_begun": {store.name: len(noted(store, "calibrated")) for store in (calm, wild)},
        "problems": compare(calm, wild, runs, []),
    }


def command(store: Path) -> tuple[str, ...]:
    """What starts a worker that has the data, and notes what it does in a folder of results."""
    return (sys.executable, "-c", WORKER, str(Path(__file__).resolve().parents[1]), str(store / "notes"))


def sweep_into(store: Path, base: Path, runs: int, executor: Executor, on_event: Any) -> float:
    """Sweeps the runs and returns how many seconds it took."""
    store.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    planned = [PlannedRun(spec, "boolq", ()) for spec in specs(base, runs)]
    with closing(executor):
        sweep(planned, ResultStore(store), executor=executor, retries=1, on_event=on_event)
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
