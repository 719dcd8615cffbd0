"""Runs jobs in worker processes of this machine. A worker that dies costs the run it was in; the others go on in a new one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hubinit.errors import HubinitError
from hubinit.records import ResultStore, RunResult
from hubinit.runs.costs import provenance
from hubinit.runs.job import Job

Event = dict[str, Any]

# How long OpenMP threads spin before they sleep, in turns: a few microseconds. On two cores a LoRA step took 3.5 s so, 6.0 s with
# threads that sleep at once; beside a second process 7.5 and 7.4 s, and 15.3 s with libgomp's own default.
SPIN = "2000"
WORKER = (sys.executable, "-m", "hubinit.runs.worker")


def run_local(job: Job, on_event: Callable[[Event], None], worker_command: Sequence[str] = WORKER) -> None:
    """Does all runs of `job`, one worker process at a time.

    Every run ends with a stored result: its own, or a failed one that says how the worker died.

    Raises:
        HubinitError: the base model cannot be loaded, so that no run of the job can start.
    """
    store = ResultStore(job.store)
    log = job.store / "logs" / f"{job.model.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    left = {assignment.spec.key: assignment for assignment in job.assignments}
    while left:
        current: str | None = None
        done = False
        worker = start_worker(worker_command, job.model_copy(update={"assignments": tuple(left.values())}), log)
        try:
            for event in worker.events():
                on_event(event)
                if event["event"] == "fatal":
                    raise HubinitError(str(event["reason"]))
                if event["event"] == "started":
                    current = str(event["key"])
                elif event["event"] == "finished":
                    left.pop(str(event["key"]), None)
                    current = None
                done = done or event["event"] == "done"
            code = worker.process.wait()
        finally:
            worker.stop()
        if done:
            return
        if current is None:  # died while loading: nothing says that a new worker would fare better
            raise HubinitError(
                f"The worker for {job.model.id} {died(code)} before its first run; its output is in {log}."
            )
        reason = f"the worker {died(code)} during this run; its output is in {log.relative_to(job.store)}"
        assignment = left.pop(current)
        stored = store.write(
            RunResult(
                key=current,
                spec=assignment.spec,
                status="failed",
                reason=reason,
                provenance=provenance(job.command),
            )
        )
        on_event({"event": "finished", "key": current, "status": stored.status, "reason": reason})


class Worker:
    """A running worker process and the pipe of its events."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: int) -> None:
        self.process = process
        self._reader = reader

    def events(self) -> Iterator[Event]:
        """Yields events until the worker closes its end, by finishing or by dying."""
        with os.fdopen(self._reader, encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):  # a torn last line is a worker that died while writing it
                    yield json.loads(line)

    def stop(self) -> None:
        """Ends the worker if it still runs (the user interrupted, or this process failed)."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_worker(command: Sequence[str], job: Job, log: Path) -> Worker:
    """Starts a worker on `job`; its own output goes to `log`."""
    reader, writer = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            [*command, str(writer)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            env={"GOMP_SPINCOUNT": SPIN, **os.environ},
        )
    os.close(writer)
    assert process.stdin is not None
    try:
        process.stdin.write(job.model_dump_json().encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its exit code says so
    return Worker(process, reader)


def died(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"stopped with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
