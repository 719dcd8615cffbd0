"""A worker that dies costs one run: played by small scripts that speak the worker's protocol and then kill themselves."""

import io
import os
import sys

import pytest

from hubinit.errors import HubinitError
from hubinit.records import ResultStore, RunResult, Score
from hubinit.runs.costs import provenance
from hubinit.runs.executors.local import run_local
from hubinit.runs.job import Assignment, Job
from hubinit.specs import EvalSpec, MethodSpec, ModelSpec, RunSpec

# Finishes every run it is given, except that it acts out the seed's fate: 1 is killed, 2 exits.
SCRIPT = """
import json, os, signal, sys
from hubinit.runs.costs import provenance
from hubinit.records import ResultStore, RunResult
from hubinit.runs.job import Job
events = os.fdopen(int(sys.argv[1]), "w", buffering=1)
emit = lambda **fields: events.write(json.dumps(fields) + "\\n")
job = Job.model_validate_json(sys.stdin.read())
fate = os.environ.get("FATE", "")
if fate == "load": sys.exit(3)
if fate == "fatal": emit(event="fatal", reason="no such model"); sys.exit(1)
for a in job.assignments:
    emit(event="started", key=a.spec.key)
    if a.spec.seed == 1: os.kill(os.getpid(), signal.SIGKILL)
    if a.spec.seed == 2: events.write('{"event": "torn'); events.flush(); os._exit(7)
    ResultStore(job.store).write(RunResult(key=a.spec.key, spec=a.spec, status="ok", provenance=provenance("x")))
    emit(event="finished", key=a.spec.key, status="ok", reason=None)
emit(event="done")
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    return (sys.executable, str(script))


def job(store, seeds) -> Job:
    model = ModelSpec(id="org/name")
    specs = [RunSpec(model=model, method=MethodSpec(name="lora"), rank=4, alpha=8, seed=seed) for seed in seeds]
    return Job(store=store, model=model, assignments=tuple(Assignment(spec=s, evaluations=()) for s in specs))


def test_a_killed_worker_costs_one_run(tmp_path, worker):
    events = []
    run_local(job(tmp_path, [0, 1, 2, 3]), events.append, worker)
    results = {r.spec.seed: r for r in ResultStore(tmp_path).results()}
    assert {seed: r.status for seed, r in results.items()} == {0: "ok", 1: "failed", 2: "failed", 3: "ok"}
    assert "killed by SIGKILL (often: out of memory)" in results[1].reason
    assert "exit code 7" in results[2].reason
    assert [e["status"] for e in events if e["event"] == "finished"] == ["ok", "failed", "failed", "ok"]


@pytest.mark.parametrize(
    ("fate", "message"), [("load", "exit code 3 before its first run"), ("fatal", "no such model")]
)
def test_a_base_that_does_not_load_ends_the_job(tmp_path, worker, monkeypatch, fate, message):
    monkeypatch.setenv("FATE", fate)
    with pytest.raises(HubinitError, match=message):
        run_local(job(tmp_path, [0]), lambda event: None, worker)


def test_a_worker_killed_while_scoring_one_more_task_keeps_the_scores(tmp_path, worker):
    work = job(tmp_path, [1])
    spec = work.assignments[0].spec
    score = Score(task="piqa", metric="acc", value=0.5, n=4, eval=EvalSpec(task="piqa"))
    before = RunResult(key=spec.key, spec=spec, status="ok", scores=(score,), provenance=provenance("x"))
    ResultStore(tmp_path).write(before)
    events = []
    run_local(work, events.append, worker)
    (after,) = ResultStore(tmp_path).results()
    assert after.status == events[-1]["status"] == "partial"
    assert after.scores == before.scores
    assert "SIGKILL" in after.reason


def test_a_worker_whose_parent_is_gone_stores_nothing(tmp_path, monkeypatch):
    """The pipe of events breaks: the run was cut off, it did not fail."""
    from hubinit.runs import worker

    def execute(job, emit):
        emit("started", key="x")

    monkeypatch.setattr(worker, "execute", execute)
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "argv", ["worker", str(writer)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(job(tmp_path, [0]).model_dump_json()))
    with pytest.raises(worker.Orphaned):
        worker.main()
