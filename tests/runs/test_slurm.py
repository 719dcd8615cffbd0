"""Runs that the tasks of a Slurm array share, played by submitit's local executor: one is requeued, one is killed."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("submitit", reason='needs pip install "hubinit[slurm]"')

from hubinit.errors import HubinitError
from hubinit.records import ResultStore
from hubinit.runs.executors.slurm import SlurmExecutor, minutes, slurm_executor
from hubinit.runs.executors.spec import Places
from hubinit.runs.job import Event, Progress, Started
from hubinit.runs.sweep import sweep
from tests import workers


@pytest.fixture
def executor(tmp_path: Path) -> SlurmExecutor:
    script = tmp_path / "worker.py"
    script.write_text(workers.SCRIPT)
    return SlurmExecutor(Places(workers=2), "local", (sys.executable, str(script)))


@pytest.mark.slow
def test_a_task_that_is_requeued_goes_on_and_one_that_is_killed_costs_no_run(
    executor: SlurmExecutor, tmp_path: Path
) -> None:
    store, runs, events, hit = ResultStore(tmp_path / "runs"), workers.planned(16), [], set[int]()

    def watch(event: Event) -> None:
        events.append(event)
        for number, task in enumerate(executor.tasks):
            if (
                isinstance(event, Progress)
                and event.stage == "train"
                and number not in hit
                and len(executor.tasks) == 2
            ):
                (process,) = psutil.Process(int(task.job_id)).children()
                if process.children():  # its worker
                    hit.add(number)
                    victims = (
                        [process] if number == 0 else [psutil.Process(int(task.job_id)), process, *process.children()]
                    )
                    for victim in victims:
                        os.kill(victim.pid, signal.SIGKILL if number else signal.SIGUSR2)
                    return

    results = sweep(runs, store, executor=executor, on_event=watch, retries=1)
    assert hit == {0, 1}
    workers.check_undisturbed(results, runs, store)
    said = next(event.stage for event in events if isinstance(event, Progress))
    folder = store.root / said.split("whose logs are in ")[1]
    assert said.startswith("16 runs are queued as Slurm job ")
    assert "Requeued job" in "".join(log.read_text() for log in folder.glob("*_log.*"))
    assert {event.place.split(", ")[0] for event in events if isinstance(event, Started)} == {socket.gethostname()}


@pytest.mark.slow
def test_a_task_that_fails_costs_its_runs_and_says_why(executor: SlurmExecutor, tmp_path: Path) -> None:
    executor.command = ("/no/such/program",)
    (result,) = sweep(workers.planned(1), ResultStore(tmp_path / "runs"), executor=executor)
    assert result.status == "failed"
    assert re.search(
        r"^Slurm job \d+ failed: FileNotFoundError: .*/no/such/program'; its logs are in slurm/", result.reason or ""
    )


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("90m", 90),
        ("8h", 480),
        ("2d", 2880),
        ("30", 30),
        ("10:30", 11),
        ("1:30:00", 90),
        ("1-0", 1440),
        ("1-12", 2160),
        ("1-02:30", 1590),
        ("1-02:30:01", 1591),
        ("0:10", 1),
    ],
)
def test_time_limits_are_those_of_sbatch(limit: str, expected: int) -> None:
    assert minutes(limit) == expected


@pytest.mark.parametrize("limit", ["", "8 h", "1-", "-1", "1:2:3:4", "soon"])
def test_another_time_limit_is_an_error(limit: str) -> None:
    with pytest.raises(HubinitError, match="is not a time limit; write 8h, or 08:00:00"):
        minutes(limit)


def test_without_slurm_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HubinitError, match="--executor slurm needs sbatch and srun: run hubinit on a login node"):
        slurm_executor(Places())


def test_submitit_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(HubinitError, match=r'--executor slurm needs submitit: pip install "hubinit\[slurm\]"'):
        slurm_executor(Places())
