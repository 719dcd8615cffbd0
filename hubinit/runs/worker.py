"""The worker process: takes one job after another, keeps the base they share in memory, and stores one result for each.

It reads one `Job` per line from standard input and writes one event per line to standard output. Everything that libraries
print goes to the log of the run. A run that fails becomes a stored result with its reason; a worker that dies loses only the
run it was in. A run that another process is doing is left to it, see `hubinit.runs.lease`.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

import torch

from hubinit import adapters, tasks
from hubinit.errors import DivergedError, HubinitError, first_line
from hubinit.models import base
from hubinit.models.fingerprint import fingerprint
from hubinit.models.kinds import KINDS
from hubinit.paths import remove_temporaries
from hubinit.records import Cost, ResultStore, RunResult, Stage
from hubinit.remote import redact
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.job import Busy, Event, Finished, Job, Loading, Progress, find_done, in_memory
from hubinit.runs.lease import leased
from hubinit.runs.notes import note, note_beginning, noting
from hubinit.runs.stages import follow, run_stages
from hubinit.runs.stopping import Stopped
from hubinit.runs.training import TrainingMemoryError, shrink
from hubinit.specs import FULL

Emit = Callable[[Event], None]


class Worker:
    """What stays from job to job: the base in memory and what it cost, or why it could not be loaded."""

    def __init__(self, emit: Emit) -> None:
        self.emit = noting(emit)
        self.holds: tuple[str, str] | None = None
        self.loaded: base.Loaded | None = None
        self.mark = 0  # the fingerprint of the base as it was loaded
        self.costs: dict[Stage, Cost] = {}
        self.broken: dict[tuple[str, str], str] = {}

    def do(self, job: Job) -> None:
        """Takes a job to its stored result."""
        store = ResultStore(job.store)
        note_beginning(job)
        if job.rank:
            self.emit(self._follow(job, store))
            return
        with leased(job.store, job.spec.key) as holder:
            if holder is not None:
                event: Event = Busy(key=job.spec.key, holder=str(holder))
            else:
                event = find_done(job) or self._do_leased(job, store)
        self.emit(event)

    def _do_leased(self, job: Job, store: ResultStore) -> Finished:
        """Takes a job that nobody else does to its stored result."""
        remove_temporaries(store.folder(job.spec.key))
        result = self._run_safely(job, store)
        while isinstance(result, Job):
            free_memory()
            result = self._run_safely(result, store)
        result = store.write(result)
        return Finished(key=result.key, status=result.status, reason=result.reason)

    def _run_safely(self, job: Job, store: ResultStore) -> RunResult | Job:
        """Runs one job; whatever goes wrong is recorded in the result instead of ending the worker.

        Returns:
            The result; or the job to do instead, where memory ran out in training and smaller forward passes may do.
        """
        watch = Stopwatch()
        empty = RunResult(key=job.spec.key, spec=job.spec, status="failed", provenance=provenance(job.command))
        outcome: dict[str, Any]
        try:
            loaded = self._base_of(job)
            watch.costs = dict(self.costs)
            return run_stages(job, loaded, store, watch, self.emit, empty)
        except DivergedError as error:
            outcome = {"status": "diverged", "reason": str(error)}
        except HubinitError as error:
            outcome = {"reason": str(error)}
        except TrainingMemoryError as error:
            smaller = shrink(job) if job.processes == 1 else None  # the other processes would have to agree
            if smaller is not None:
                assert smaller.spec.recipe is not None
                size = smaller.spec.recipe.micro_batch_size
                print(f"Out of memory ({error}); the run goes on with micro_batch_size {size}, the same batch_size.")
                self.emit(Progress(key=job.spec.key, stage=f"out of memory: on with micro_batch_size {size}"))
                return smaller
            many = "one example" if job.processes == 1 else "this many examples"
            outcome = {"reason": f"out of memory ({error}) with {many} per forward pass; lower recipe.max_length"}
        except torch.OutOfMemoryError as error:
            outcome = {"reason": f"out of memory ({first_line(error)}); lower recipe.micro_batch_size"}
        except Exception as error:  # the boundary: one broken run must not end the sweep
            traceback.print_exc()  # into the run's log
            outcome = {"reason": f"{type(error).__name__}: {first_line(error)}"}
        finally:
            self._restore(job)
        outcome["reason"] = redact(outcome["reason"])
        return empty.model_copy(update={**outcome, "costs": watch.costs})

    def _follow(self, job: Job, store: ResultStore) -> Finished:
        """Does the share of a rank that is not the first, whose word on how the run ended is not stored."""
        self.emit(Progress(key=job.spec.key, stage="join"))  # it is at work: nobody else is to be asked
        status, reason = "failed", ""
        try:
            follow(job, self._base_of(job), store.folder(job.spec.key), lambda progress: None)
            status = "ok"
        except DivergedError as error:
            status, reason = "diverged", str(error)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {first_line(error)}"
        finally:
            self._restore(job)
        return Finished(key=job.spec.key, status=status, reason=redact(reason) or None)

    def _base_of(self, job: Job) -> base.Loaded:
        """The base of a job: the one in memory, bit for bit as it was loaded, or loaded now.

        One that failed to load fails at once from then on.

        Raises:
            HubinitError: it is missing, gated or broken.
        """
        wanted = in_memory(job.spec)
        if wanted in self.broken:
            raise HubinitError(self.broken[wanted])
        if self.loaded is not None and self.holds == wanted and self._fingerprint(self.loaded) != self.mark:
            print(f"An earlier run left {job.spec.model.id} changed in memory; it is loaded again.")  # into the log
            self.emit(Progress(key=job.spec.key, stage="the base was changed by an earlier run, and is loaded again"))
            self.loaded = None
        if self.loaded is None or self.holds != wanted:
            self.loaded = None  # the memory is needed for the next one
            self.emit(Loading(key=job.spec.key, model=job.spec.model.id))
            watch = Stopwatch()
            try:
                with watch.stage("load"):
                    self.loaded = base.load(job.spec.model, job.device, labels=tasks.head_labels(job.spec))
            except HubinitError as error:
                self.broken[wanted] = str(error)
                raise
            self.holds, self.costs = wanted, watch.costs
            self.mark = self._fingerprint(self.loaded)
        return self.loaded

    def _fingerprint(self, loaded: base.Loaded) -> int:
        """What must be the same before every run."""
        return fingerprint(loaded.model, heads=not KINDS[loaded.spec.kind].labelled)

    def _restore(self, job: Job) -> None:
        """Takes any adapter off the shared base, so that the next run starts from the untouched model.

        A base whose own weights were trained is given up.
        """
        if job.spec.method.name == FULL:
            self.loaded = None
        elif self.loaded is not None:
            adapters.detach(self.loaded.model)
            self.loaded.model.eval()


def free_memory() -> None:
    """Gives back what a failed attempt left: the model and its graph are in cycles, and CUDA keeps what was freed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Entry point: `python -m hubinit.runs.worker`."""
    with (
        os.fdopen(os.dup(0)) as orders,
        suppress(BrokenPipeError),  # a last event that nobody reads
        os.fdopen(os.dup(1), "w", buffering=1) as events,
    ):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what libraries read is not a job,
        os.dup2(2, 1)  # and what they print is not an event
        worker = Worker(lambda event: write_event(event, events))
        for job in read_jobs(orders):
            log_to(job.store / "logs" / f"{job.spec.key}{f'.rank{job.rank}' if job.rank else ''}.log")
            try:
                worker.do(job)
            except Stopped:
                note("was asked to stop; the next try goes on from the last checkpoint")
                sys.exit(128 + signal.SIGTERM)


def read_jobs(orders: TextIO) -> Iterator[Job]:
    """The jobs as they come. When nobody can send any more the process ends, also in the middle of a run: the parent is gone."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in orders:
            lines.put(line)
        os.kill(os.getpid(), signal.SIGTERM)  # which a training answers with a checkpoint

    Thread(target=read, daemon=True).start()
    while True:
        yield Job.model_validate_json(lines.get())


def write_event(event: Event, events: TextIO) -> None:
    """Writes one event. When nobody reads it, the parent is gone: the run is cut off rather than failed, as in `read_jobs`."""
    try:
        events.write(event.model_dump_json() + "\n")
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


def log_to(path: Path) -> None:
    """Sends the process's output, that of its native libraries included, to a file from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


if __name__ == "__main__":
    main()
