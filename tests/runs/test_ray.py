"""Runs on a Ray cluster of three nodes, one of which is killed in the middle: all are done, each once, with the same results."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason='needs pip install "hubinit[ray]"')

from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.ray import LOSSES, RayExecutor, connect, ray_executor
from hubinit.runs.executors.spec import Places
from hubinit.runs.job import Busy, Event, Finished, Loading, Progress
from hubinit.runs.plan import PlannedRun
from hubinit.runs.sweep import sweep
from hubinit.specs import MethodSpec, ModelSpec, RunSpec

pytestmark = pytest.mark.slow

# Takes half a second for a run, under its lease as the real worker does, and notes which runs it takes to the end.
SCRIPT = """
import os, signal, sys, time
from hubinit.runs.costs import provenance
from hubinit.runs.lease import leased
from hubinit.records import ResultStore, RunResult
from hubinit.runs.job import Busy, Finished, Job, Loading, Progress, find_done
def emit(event): print(event.model_dump_json(), flush=True)
base = None
for line in sys.stdin:
    job = Job.model_validate_json(line)
    key, spec = job.spec.key, job.spec
    with leased(job.store, key) as holder:
        if holder is not None:
            end = Busy(key=key, holder=str(holder))
        elif (end := find_done(job)) is None:
            if base != spec.model.id:
                base = spec.model.id
                emit(Loading(key=key, model=base))
            emit(Progress(key=key, stage="train"))
            if spec.seed == 99:
                os.kill(os.getppid(), signal.SIGKILL)  # the actor
                sys.exit(1)
            time.sleep(0.5)
            loss = spec.seed / 8
            result = RunResult(key=key, spec=spec, status="ok", validation_loss=loss, provenance=provenance("x"))
            ResultStore(job.store).write(result)
            with (job.store / "notes").open("a") as notes: notes.write(key + chr(10))
            end = Finished(key=key, status="ok")
    emit(end)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    store = 80_000_000  # bytes, the least that Ray takes
    node = {"num_cpus": 1, "object_store_memory": store}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.others = [cluster.add_node(**node) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)  # is what `auto` finds
        yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def executor(cluster: Any, tmp_path: Path) -> Iterator[RayExecutor]:
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    with closing(RayExecutor(Places(), partial(WorkerProcess, (sys.executable, str(script))))) as made:
        yield made


def planned(count: int) -> list[PlannedRun]:
    """So many runs, of two bases in turn."""
    specs = [
        RunSpec(model=ModelSpec(id=f"org/{'ab'[seed % 2]}"), method=MethodSpec(name="lora"), rank=4, alpha=8, seed=seed)
        for seed in range(count)
    ]
    return [PlannedRun(spec, "arc-easy", ()) for spec in specs]


def test_a_node_killed_in_the_middle_costs_no_run(cluster: Any, executor: RayExecutor, tmp_path: Path) -> None:
    store, runs, events = ResultStore(tmp_path / "runs"), planned(16), []
    assert len(executor.slots) == 3

    def watch(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.stage == "train" and cluster.others:
            at_work = sum(member is not None for member in (slot.member for slot in executor.slots))
            if at_work == 3:  # every node has a run that has begun or is about to
                cluster.remove_node(cluster.others.pop(), allow_graceful=False)
                cluster.others.clear()

    results = sweep(runs, store, executor=executor, on_event=watch)
    assert not cluster.others, [r.reason for r in results]
    assert [event for event in events if isinstance(event, Busy) and "was lost" in event.holder]
    assert [(r.status, r.validation_loss) for r in results] == [("ok", run.spec.seed / 8) for run in runs]
    assert set(Counter((store.root / "notes").read_text().split()).values()) == {1}
    assert len([event for event in events if isinstance(event, Finished)]) == 16
    assert sum(isinstance(event, Loading) for event in events) <= 5, "a worker keeps to its base"
    assert not list(store.root.glob(".seen-*"))


def test_a_run_that_loses_worker_after_worker_fails_and_the_others_do_not(
    executor: RayExecutor, tmp_path: Path
) -> None:
    bad = RunSpec(model=ModelSpec(id="org/a"), method=MethodSpec(name="lora"), rank=4, alpha=8, seed=99)
    results = sweep([PlannedRun(bad, "x", ()), *planned(2)], ResultStore(tmp_path / "runs"), executor=executor)
    assert [r.status for r in results] == ["failed", "ok", "ok"]
    assert results[0].reason == f"{LOSSES} workers were lost during this run"


def test_a_folder_that_no_node_sees_is_said(executor: RayExecutor, tmp_path: Path) -> None:
    executor.crew.mark = tmp_path / "gone"  # as it is where the nodes have a folder of the same name
    with pytest.raises(
        HubinitError, match=r"does not see .*/runs of this machine; give --out a folder that all nodes share"
    ):
        sweep(planned(2), ResultStore(tmp_path / "runs"), executor=executor)


def test_a_cluster_without_room_is_said(cluster: Any) -> None:
    with pytest.raises(HubinitError, match="No node of the Ray cluster has 64 cores, which each run wants"):
        ray_executor(Places(cpus=64))


def test_no_cluster_is_said_at_once() -> None:
    with pytest.raises(
        HubinitError, match=r"No Ray cluster at 127\.0\.0\.1:1 .*refused.*; start one with `ray start --head`"
    ):
        connect("127.0.0.1:1")


def test_ray_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HubinitError, match=r'--executor ray needs Ray: pip install "hubinit\[ray\]"'):
        connect("auto")
