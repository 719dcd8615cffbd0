"""A worker that dies costs one run: played by small scripts that speak the worker's protocol and then kill themselves."""

import io
import os
import signal
import sys

import pytest
import torch

from hubinit.errors import HubError
from hubinit.models.base import Loaded
from hubinit.records import ResultStore, RunResult, Score
from hubinit.runs.costs import provenance
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.job import Died, Finished, Job, Loading, Progress
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import summarise
from hubinit.runs.sweep import sweep
from hubinit.specs import EvalSpec, MethodSpec, ModelSpec, RunSpec

# Finishes every run it is given, except that it acts out the seed's fate:
# 1 is killed, 2 exits, 3 dies after its run, 4 while loading.
SCRIPT = """
import os, signal, sys
from hubinit.runs.costs import provenance
from hubinit.records import ResultStore, RunResult
from hubinit.runs.job import Finished, Job, Loading, Progress
def emit(event): print(event.model_dump_json(), flush=True)
print("[INFO] a library says something when it is imported", flush=True)
for line in sys.stdin:
    job = Job.model_validate_json(line)
    key, seed = job.spec.key, job.spec.seed
    emit(Loading(key=key, model=str(os.getpid())))
    if seed == 4: sys.exit(3)
    emit(Progress(key=key, stage="train"))
    if seed == 1: os.kill(os.getpid(), signal.SIGKILL)
    if seed == 2: print('{"type": "torn', end="", flush=True); os._exit(7)
    ResultStore(job.store).write(RunResult(key=key, spec=job.spec, status="ok", provenance=provenance("x")))
    emit(Finished(key=key, status="ok"))
    if seed == 3: sys.exit(0)
"""


@pytest.fixture
def executor(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    return SlotExecutor([WorkerProcess((sys.executable, str(script)))])


def planned(seeds, **fields) -> list[PlannedRun]:
    model = ModelSpec(id="org/name")
    specs = [RunSpec(model=model, method=MethodSpec(name="lora"), rank=4, alpha=8, seed=seed) for seed in seeds]
    return [PlannedRun(spec, "arc-easy", (), **fields) for spec in specs]


def run_sweep(store, executor, seeds):
    events, told = [], []
    results = sweep(planned(seeds), store, executor=executor, on_event=events.append, on_result=told.append)
    assert told == results
    return {result.spec.seed: result for result in results}, events


def test_a_killed_worker_costs_one_run(tmp_path, executor):
    results, events = run_sweep(ResultStore(tmp_path), executor, [0, 1, 2, 5])
    assert {seed: r.status for seed, r in results.items()} == {0: "ok", 1: "failed", 2: "failed", 5: "ok"}
    assert "was killed (Killed) (often: out of memory)" in results[1].reason
    assert "exit code 7" in results[2].reason
    assert f"logs/{results[2].key}.log" in results[2].reason
    assert [e.status for e in events if isinstance(e, Finished)] == ["ok", "failed", "failed", "ok"]
    assert not [e for e in events if isinstance(e, Died)], "a death is told as a failed run"


def test_one_worker_does_all_runs_until_it_dies_and_between_two_runs_it_costs_none(tmp_path, executor):
    results, events = run_sweep(ResultStore(tmp_path), executor, [0, 3, 5, 6])
    assert {r.status for r in results.values()} == {"ok"}
    workers = [e.model for e in events if isinstance(e, Loading)]
    assert workers[0] == workers[1] != workers[2] == workers[3]


def test_a_base_that_kills_its_workers_is_given_up_and_the_rest_is_told(tmp_path, executor):
    model = ModelSpec(id="org/name")
    specs = [
        RunSpec(model=model, method=MethodSpec(name="lora"), rank=rank, alpha=8, seed=4) for rank in (1, 2, 3, 4, 5)
    ]
    other = RunSpec(model=ModelSpec(id="org/other"), method=MethodSpec(name="lora"), rank=4, alpha=8)
    results = sweep([PlannedRun(s, "x", ()) for s in (*specs, other)], ResultStore(tmp_path), executor=executor)
    assert [r.status for r in results] == ["failed"] * 5 + ["ok"]
    assert sum("exit code 3" in r.reason for r in results[:5]) == 2
    assert sum("2 workers died while they loaded org/name" in r.reason for r in results[:5]) == 3


def test_a_worker_killed_while_scoring_one_more_task_keeps_the_scores(tmp_path, executor):
    store = ResultStore(tmp_path)
    (run,) = planned([1])
    score = Score(task="piqa", metric="acc", value=0.5, n=4, eval=EvalSpec(task="piqa"))
    before = RunResult(key=run.spec.key, spec=run.spec, status="ok", scores=(score,), provenance=provenance("x"))
    store.write(before)
    more = PlannedRun(run.spec, "arc-easy", (EvalSpec(task="piqa"), EvalSpec(task="boolq")), summarise(before))
    events = []
    (result,) = sweep([more], store, executor=executor, on_event=events.append)
    assert result.status == events[-1].status == "partial"
    assert result.scores == before.scores
    assert "was killed" in result.reason


def test_a_worker_whose_parent_is_gone_is_told_to_stop(monkeypatch):
    """The pipe of events breaks: the run was cut off, it did not fail."""
    from hubinit.runs import worker

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    sent = []
    monkeypatch.setattr(os, "kill", lambda *asked: sent.append(asked))
    worker.write_event(Finished(key="k", status="ok"), Broken())
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_messages_survive_the_way_between_processes(tmp_path):
    spec = planned([0])[0].spec
    job = Job(store=tmp_path, spec=spec, evaluations=(EvalSpec(task="piqa"),), peers=(spec,), force=True)
    assert Job.model_validate_json(job.model_dump_json()) == job
    told = Progress(key="k", stage="train", step=1, steps=2, loss=float("inf"))
    assert Progress.model_validate_json(told.model_dump_json()) == told


def test_a_base_that_does_not_load_costs_its_own_runs_only_and_is_tried_once(tmp_path, monkeypatch):
    from hubinit.runs import worker

    asked = []

    def load(spec, *_, **__):
        asked.append(spec.id)
        if spec.id == "org/gone":
            raise HubError("Cannot download org/gone: access to it is gated.")
        return Loaded(torch.nn.Linear(1, 1), None, spec, torch.device("cpu"), torch.float32)

    monkeypatch.setattr(worker.base, "load", load)
    monkeypatch.setattr(worker, "run_stages", lambda job, *_: _[-1].model_copy(update={"status": "ok"}))
    specs = [
        RunSpec(model=ModelSpec(id=name), method=MethodSpec(name="lora"), rank=rank, alpha=8)
        for name, rank in (("org/gone", 1), ("org/gone", 2), ("org/here", 1))
    ]
    told = []
    doer = worker.Worker(told.append)
    for spec in specs:
        doer.do(Job(store=tmp_path, spec=spec))
    assert [event.status for event in told if isinstance(event, Finished)] == ["failed", "failed", "ok"]
    assert [event.reason for event in told if isinstance(event, Finished)][:2] == [
        "Cannot download org/gone: access to it is gated."
    ] * 2
    assert asked == ["org/gone", "org/here"]


@pytest.mark.parametrize("touched", [False, True])
def test_a_base_that_a_run_left_changed_is_loaded_again(tmp_path, monkeypatch, touched):
    from hubinit.runs import worker

    loads, seen = [], []

    def load(spec, *_, **__):
        loads.append(spec.id)
        torch.manual_seed(0)
        return Loaded(torch.nn.Linear(3, 3), None, spec, torch.device("cpu"), torch.float32)

    def run(job, loaded, *_):
        seen.append(loaded.model.weight.detach().clone())
        if touched and job.spec.rank == 1:
            with torch.no_grad():
                loaded.model.weight[1, 2] += 1e-7
        return _[-1].model_copy(update={"status": "ok"})

    monkeypatch.setattr(worker.base, "load", load)
    monkeypatch.setattr(worker, "run_stages", run)
    told = []
    doer = worker.Worker(told.append)
    for rank in (1, 2, 3):
        spec = RunSpec(model=ModelSpec(id="org/one"), method=MethodSpec(name="lora"), rank=rank, alpha=8)
        doer.do(Job(store=tmp_path, spec=spec))
    assert all(torch.equal(weight, seen[0]) for weight in seen)
    assert len(loads) == 1 + touched
    assert sum("changed by an earlier run" in event.stage for event in told if isinstance(event, Progress)) == touched
