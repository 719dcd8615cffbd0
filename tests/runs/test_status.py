"""What another process sees of a sweep: while it goes on, after it was killed, and after its end."""

import json
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from hubinit.cli.rounds import watched_sweep
from hubinit.errors import HubinitError
from hubinit.records import Provenance, ResultStore, RunResult
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.plan import PlannedRun
from hubinit.runs.progress import FOLDER, Recorder, read_snapshots, recorded
from hubinit.runs.status import Status, read_status
from hubinit.runs.stored import read_stored
from hubinit.runs.tally import Tally
from hubinit.specs import MethodSpec, ModelSpec, RunSpec

# Does the even seeds, fails at 1, and goes on with 3 when there is a file `go`.
WORKER = """
import sys, time
from pathlib import Path
from hubinit.records import Provenance, ResultStore, RunResult
from hubinit.runs.job import Finished, Job, Progress
from hubinit.runs.lease import leased
def emit(event): print(event.model_dump_json(), flush=True)
for line in sys.stdin:
    job = Job.model_validate_json(line)
    key, seed = job.spec.key, job.spec.seed
    with leased(job.store, key):
        emit(Progress(key=key, stage="train", step=0, steps=10))
        emit(Progress(key=key, stage="evaluate", task="piqa", step=3, steps=10))
        for _ in range(600):  # half a minute, then it ends whatever became of the test
            if seed != 3 or (job.store / "go").exists(): break
            time.sleep(0.05)
        status, reason = ("failed", "a gate") if seed == 1 else ("ok", None)
        made = Provenance(versions={}, hardware={}, command="", created=str(time.time()))
        result = RunResult(key=key, spec=job.spec, status=status, reason=reason, provenance=made)
        ResultStore(job.store).write(result)
    emit(Finished(key=key, status=status, reason=reason))
"""


def specs() -> list[RunSpec]:
    model, method = ModelSpec(id="org/base"), MethodSpec(name="lora")
    return [RunSpec(model=model, method=method, rank=2, alpha=4, seed=seed) for seed in range(5)]


def states(found: Status) -> list[str]:
    by_key = {run.row.key: run.state for run in found.runs}
    return [by_key[spec.key] for spec in specs()]


def work(root: Path) -> None:
    """A sweep of five runs in one worker."""
    store = ResultStore(root)
    planned = [PlannedRun(spec, "arc-easy", (), read_stored(store, spec.key)) for spec in specs()]
    executor = SlotExecutor([WorkerProcess((sys.executable, str(root / "worker.py")), name="GPU 0")])
    with recorded(root) as recorder:
        watched_sweep(planned, store, recorder, executor=executor)


def start(root: Path) -> ForkProcess:
    """Begins it in a process of its own, which need not import anything."""
    process = get_context("fork").Process(target=work, args=(root,), daemon=True)
    process.start()
    return process


def wait_for(root: Path, wanted: list[str], words: list[str]) -> Status:
    """The status once the runs are in these states, and what is known to go on is this."""
    for _ in range(300):
        time.sleep(0.1)
        found = read_status(root)
        doing = [run.doing.words for run in found.runs if run.doing is not None]
        if len(found.runs) == 5 and (states(found), doing) == (wanted, words):
            return found
    raise AssertionError(found)


def test_a_sweep_is_seen_while_it_goes_on_after_sigkill_and_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(sys, "argv", ["/bin/hubinit", "bench", "--force", "--out", str(tmp_path)])
    process = start(tmp_path)
    found = wait_for(tmp_path, ["ok", "failed", "ok", "running", "left"], ["evaluate 3/10 piqa"])
    (sweep,) = found.sweeps
    assert (sweep.alive, sweep.left, found.going_on) == (True, 1, True)
    running = next(run for run in found.runs if run.state == "running")
    assert running.doing is not None
    assert running.doing.place == "GPU 0"
    assert running.holder is not None, "the process that holds the lease"
    assert running.holder.pid != process.pid
    assert next(run for run in found.runs if run.state == "failed").reason == "a gate"
    assert found.counts == {"running": 1, "ok": 2, "failed": 1, "left": 1}
    assert found.seconds_left is not None
    assert sweep.snapshot.command == f"hubinit bench --out {tmp_path}", (
        "without --force, which would do all of it again"
    )

    process.kill()
    process.join()
    found = read_status(tmp_path)
    assert [(one.alive, one.snapshot.ended) for one in found.sweeps] == [(False, False)]
    assert states(found)[3:] == ["running", "left"], "its worker lives, until it looks for more to do"
    (tmp_path / "go").touch()
    found = wait_for(tmp_path, ["ok", "failed", "ok", "ok", "left"], [])
    assert found.seconds_left is None

    again = start(tmp_path)
    again.join(60)
    assert again.exitcode == 0
    found = read_status(tmp_path)
    assert (states(found), found.sweeps) == (["ok", "failed", "ok", "ok", "ok"], ())
    assert [one.ended for one in read_snapshots(tmp_path)] == [True], (
        "the same command takes the place of the killed one"
    )
    assert not found.going_on


def result(spec: RunSpec, status: str, reason: str | None = None) -> RunResult:
    made = Provenance(versions={}, hardware={}, command="", created="")
    return RunResult(key=spec.key, spec=spec, status=status, reason=reason, provenance=made)


def test_results_that_no_sweep_lists_are_runs_too_and_torn_files_are_passed_over(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    good, bad = specs()[:2]
    store.write(result(good, "ok"))
    store.write(result(bad, "diverged", "the loss is not finite"))
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "result.json").write_text("{")
    (tmp_path / FOLDER).mkdir()
    for name, content in {"a.json": "{", "b.json": "[1]", "c.json": '{"name": 1}', "d.runs.json": "[[1]]"}.items():
        (tmp_path / FOLDER / name).write_text(content)
    found = read_status(tmp_path)
    assert {run.row.key: (run.state, run.reason) for run in found.runs} == {
        good.key: ("ok", None),
        bad.key: ("diverged", "the loss is not finite"),
    }
    assert found.runs[0].row.cells[:2] == ("base", "lora r2")
    with pytest.raises(HubinitError, match="There is no folder"):
        read_status(tmp_path / "elsewhere")


def test_a_run_that_is_asked_for_again_is_left_until_its_result_is_new(tmp_path: Path) -> None:
    store, (spec, *_) = ResultStore(tmp_path), specs()
    store.write(result(spec, "failed", "of before"))
    with recorded(tmp_path) as recorder:
        recorder.add([PlannedRun(spec, "arc-easy", ())])
        assert [(run.state, run.reason) for run in read_status(tmp_path).runs] == [("left", None)]
        store.write(result(spec, "failed", "of now"))
        assert [(run.state, run.reason) for run in read_status(tmp_path).runs] == [("failed", "of now")]


def test_no_token_is_written_and_a_folder_that_takes_no_file_costs_only_the_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    monkeypatch.setattr(sys, "argv", ["/bin/hubinit", "bench", "--judge-url", f"http://{'hf_' + 'a' * 34}@judge/v1"])
    with recorded(tmp_path):
        pass
    text = "".join(path.read_text() for path in (tmp_path / FOLDER).glob("*.json"))
    assert json.loads(text)["command"].startswith("hubinit bench --judge-url ")
    assert "hf_" not in text
    (tmp_path / "full").touch()
    Recorder(tmp_path / "full", "name", Tally()).write()
