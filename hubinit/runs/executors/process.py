"""A slot that does its jobs in a worker process of this machine, which keeps the base in memory from job to job."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from hubinit.runs.job import EVENT, LAST, Died, Event, Job, Loading

# How long OpenMP threads spin before they sleep, in turns: a few microseconds. On two cores a LoRA step took 3.5 s so, 6.0 s with
# threads that sleep at once; beside a second process 7.5 and 7.4 s, and 15.3 s with libgomp's own default.
SPIN = "2000"
WORKER = (sys.executable, "-m", "hubinit.runs.worker")


class WorkerProcess:
    """One worker process, started when it is needed and again when it has died. Its output goes to `logs/` of the store."""

    def __init__(
        self,
        command: Sequence[str] = WORKER,
        environment: Mapping[str, str] | None = None,
        *,
        name: str = "this machine",
        silence: float | None = None,
    ) -> None:
        """Prepares a worker.

        Args:
            command: what is started.
            environment: variables that it has besides those of this process.
            name: where it runs, for people.
            silence: seconds without an event after which it counts as hung, and is killed. None: it may take its time.
        """
        self.command, self.environment = command, environment or {}
        self.name, self.silence = name, silence
        self.process: subprocess.Popen[bytes] | None = None
        self.killed = False

    def do(self, job: Job) -> Iterator[Event]:
        """Does a job in the worker; see `Slot`. A worker that was gone before it said a word is replaced, once."""
        for last in (False, True):
            heard = loading = hung = False
            try:
                for event in self._ask(job):
                    heard, loading = True, isinstance(event, Loading)
                    yield event
                    if isinstance(event, LAST):
                        return
            except TimeoutError:
                hung = True
                assert self.process is not None
                self.process.kill()
            if heard or hung or last or self.killed:
                break
        assert self.process is not None
        end = describe_end(self.process.wait())
        if hung:
            end = f"said nothing for {(self.silence or 0) / 60:.3g} minutes and was ended"
        reason = f"the worker {end} during this run; its output is in logs/{job.spec.key}.log"
        yield Died(key=job.spec.key, reason=reason, loading=loading or not heard)

    def _ask(self, job: Job) -> Iterator[Event]:
        """What the worker says to a job, until it has finished or is gone.

        Raises:
            TimeoutError: it says nothing for too long.
        """
        process = self._worker(job.store / "logs")
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # it died between two jobs, and says nothing
            process.stdin.write(job.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        for line in read_lines(process.stdout, self.silence):
            if line.startswith(b"{"):  # else a library printed it when it was imported, before the worker could listen
                yield EVENT.validate_json(line)
        process.wait()

    def stop(self) -> None:
        """Asks the worker to end; see `Slot`."""
        self.killed = True
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """Ends the worker at once, from another thread than that of its job, which is told `Died`."""
        self.killed = True
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Ends the worker, also in the middle of a job."""
        process, self.process = self.process, None
        self.killed = False
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # a last line that nobody reads any more
                pipe.close()

    def _worker(self, logs: Path) -> "subprocess.Popen[bytes]":
        """The worker process, started unless one lives."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.close()
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "worker.log").open("ab") as log:  # what comes before the first job; every run has a log of its own
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the parent, which ends its workers itself
                env={"GOMP_SPINCOUNT": SPIN, **os.environ, **self.environment},
            )
        if self.killed:  # while it started
            self.process.kill()
        return self.process


def read_lines(pipe: IO[bytes], silence: float | None) -> Iterator[bytes]:
    """The whole lines that come through a pipe; a torn last one, which somebody died in, is left out.

    Raises:
        TimeoutError: nothing came for so many seconds.
    """
    torn = b""
    while True:
        if not select.select([pipe], [], [], silence)[0]:
            raise TimeoutError
        if not (more := os.read(pipe.fileno(), 1 << 16)):
            return
        *lines, torn = (torn + more).split(b"\n")
        yield from lines


def describe_end(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"stopped with exit code {code}"
    name = signal.strsignal(-code) or f"signal {-code}"
    return f"was killed ({name})" + (" (often: out of memory)" if code == -signal.SIGKILL else "")
