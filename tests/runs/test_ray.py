"""Runs on a Ray cluster of three nodes, one of which is killed in the middle: all are done, each once, with the same results."""

import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason='needs pip install "hubinit[ray]"')

from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.executors.crew import Crew, Member
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.ray import LOSSES, RayExecutor, connect, ray_executor
from hubinit.runs.executors.spec import Places
from hubinit.runs.job import Busy, Event, Finished, Job, Progress, in_memory
from hubinit.runs.plan import PlannedRun
from hubinit.runs.sweep import sweep
from hubinit.specs import MethodSpec, ModelSpec, RunSpec
from tests import workers

pytestmark = pytest.mark.slow


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
    script.write_text(workers.SCRIPT)
    with closing(RayExecutor(Places(), partial(WorkerProcess, (sys.executable, str(script))))) as made:
        yield made


def test_a_node_killed_in_the_middle_costs_no_run(cluster: Any, executor: RayExecutor, tmp_path: Path) -> None:
    store, runs, events = ResultStore(tmp_path / "runs"), workers.planned(16), []
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
    workers.check_undisturbed(results, runs, store)
    assert len([event for event in events if isinstance(event, Finished)]) == 16
    assert not list(store.root.glob(".seen-*"))


def test_a_job_gets_the_worker_that_has_its_base_else_one_that_has_none(tmp_path: Path) -> None:
    a, b = (Job(store=tmp_path, spec=run.spec) for run in workers.planned(2))
    crew = Crew(WorkerProcess, {}, 3)
    crew.idle = [Member(1, "n", in_memory(a.spec)), Member(2, "n"), Member(3, "n", in_memory(b.spec))]
    assert [member.actor for member in (crew.borrow(b), crew.borrow(b), crew.borrow(b)) if member] == [3, 2, 1]


def test_a_run_that_loses_worker_after_worker_fails_and_the_others_do_not(
    executor: RayExecutor, tmp_path: Path
) -> None:
    bad = RunSpec(model=ModelSpec(id="org/a"), method=MethodSpec(name="lora"), rank=4, alpha=8, seed=99)
    results = sweep([PlannedRun(bad, "x", ()), *workers.planned(2)], ResultStore(tmp_path / "runs"), executor=executor)
    assert [r.status for r in results] == ["failed", "ok", "ok"]
    assert results[0].reason == f"{LOSSES} workers were lost during this run"


def test_a_folder_that_no_node_sees_is_said(executor: RayExecutor, tmp_path: Path) -> None:
    executor.crew.mark = tmp_path / "gone"  # as it is where the nodes have a folder of the same name
    with pytest.raises(
        HubinitError, match=r"does not see .*/runs of this machine; give --out a folder that all nodes share"
    ):
        sweep(workers.planned(2), ResultStore(tmp_path / "runs"), executor=executor)


def test_nodes_on_which_no_worker_starts_are_said(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(Places(), partial(WorkerProcess, no_such_option=1))  # as where hubinit is another or missing
    with pytest.raises(HubinitError, match=r"A worker on the Ray cluster cannot start: TypeError: .*no_such_option"):
        sweep(workers.planned(2), ResultStore(tmp_path / "runs"), executor=executor)


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
