"""The worker process: loads a base once and takes runs through calibrate → initialise → gate → train → gate → evaluate.

It reads one `Job` as JSON on standard input and writes one JSON event per line to the file descriptor in its argument. A run
that fails becomes a stored result with its reason; a worker that dies loses only the run it was in (see executors.py).
"""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hubinit.errors import DivergedError, HubinitError, first_line
from hubinit.records import ResultStore, RunResult, Score
from hubinit.remote import redact
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.job import Assignment, Job
from hubinit.specs import EvalSpec, RunSpec

if TYPE_CHECKING:
    from hubinit.calibration import Calibration
    from hubinit.models.base import Loaded

Emit = Callable[..., None]


class Orphaned(BaseException):
    """Nobody reads the events any more: the parent is gone, and the run is cut off rather than failed."""


def main() -> int:
    """Entry point: `python -m hubinit.runs.worker EVENTS_FD`, the job on standard input."""
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1)

    def emit(event: str, **fields: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:
            raise Orphaned from None

    job = Job.model_validate_json(sys.stdin.read())
    try:
        execute(job, emit)
    except HubinitError as error:  # nothing can run: the base itself is missing, gated or broken
        emit("fatal", reason=str(error))
        return 1
    emit("done")
    return 0


def execute(job: Job, emit: Emit) -> None:
    """Does all runs of a job, storing one result each."""
    from hubinit.models import base

    store = ResultStore(job.store)
    watch = Stopwatch()
    emit("loading", model=job.model.id)
    with watch.stage("load"):
        loaded = base.load(job.model, job.device, **head_options(job))
    for assignment in job.assignments:
        key = assignment.spec.key
        emit("started", key=key)
        run_watch = Stopwatch()
        run_watch.costs = dict(watch.costs)
        result = store.write(run_safely(job, assignment, loaded, store, run_watch, emit))
        emit("finished", key=key, status=result.status, reason=result.reason)


def head_options(job: Job) -> dict[str, Any]:
    """What `load` must know beyond the model: the labels of an image classifier's new head."""
    if job.model.kind != "vision":
        return {}
    from hubinit import tasks

    data = job.assignments[0].spec.data  # there is no untrained image classifier
    assert data is not None
    return {"labels": tasks.labels(data.tasks[0], data.revisions[0] if data.revisions else None)}


def run_safely(
    job: Job, assignment: Assignment, loaded: "Loaded", store: ResultStore, watch: Stopwatch, emit: Emit
) -> RunResult:
    """Runs one assignment; whatever goes wrong is recorded in the result instead of ending the worker."""
    base = RunResult(key=assignment.spec.key, spec=assignment.spec, status="failed", provenance=provenance(job.command))
    try:
        return run(job, assignment, loaded, store, watch, emit, base)
    except DivergedError as error:
        outcome = {"status": "diverged", "reason": str(error)}
    except HubinitError as error:
        outcome = {"reason": str(error)}
    except torch.OutOfMemoryError as error:
        outcome = {"reason": f"out of memory ({first_line(error)}); lower recipe.micro_batch_size"}
    except Exception as error:  # the boundary: one broken run must not end the sweep
        traceback.print_exc()  # into the worker's log
        outcome = {"reason": f"{type(error).__name__}: {first_line(error)}"}
    finally:
        restore(loaded)
    outcome["reason"] = redact(outcome["reason"])
    return base.model_copy(update={**outcome, "costs": watch.costs})


def restore(loaded: "Loaded") -> None:
    """Takes any adapter off the shared base, so that the next run starts from the untouched model."""
    from hubinit import adapters

    adapters.detach(loaded.model)
    loaded.model.eval()


def run(
    job: Job,
    assignment: Assignment,
    loaded: "Loaded",
    store: ResultStore,
    watch: Stopwatch,
    emit: Emit,
    result: RunResult,
) -> RunResult:
    """Takes one run through all its stages and returns its result."""
    spec, folder = assignment.spec, store.folder(assignment.spec.key)

    def stage(name: str, **fields: Any) -> None:
        emit("stage", key=spec.key, stage=name, **fields)

    stored = None if job.force else store.read(spec.key)
    if spec.method.name == "none":
        model: Any = loaded.model
    elif stored is not None and stored.status in {"ok", "partial"}:
        model = reload_adapter(loaded, folder, stored)
    else:
        stored = None
        model, trained = train_adapter(job, spec, loaded, folder, watch, stage)
        result = result.model_copy(update=trained)
    if stored is not None:
        result = stored.model_copy(update={"status": "ok", "reason": None})
        watch.costs = dict(stored.costs)  # the evaluation adds to what it cost before
    missing = [e for e in assignment.evaluations if stored is None or not stored.scored(e)]
    with watch.stage("evaluate"):
        scores, reasons = score(model, loaded, missing, job.eval_batch_size, stage)
    return result.model_copy(
        update={
            "status": "partial" if reasons else "ok",
            "reason": redact("; ".join(reasons)) or None,
            "scores": (*(stored.scores if stored else ()), *scores),
            "costs": watch.costs,
        }
    )


def train_adapter(
    job: Job, spec: RunSpec, loaded: "Loaded", folder: Path, watch: Stopwatch, stage: Emit
) -> tuple[Any, dict[str, Any]]:
    """Calibrates, initialises, trains and exports one adapter, with the gates between the stages.

    Returns:
        The trained model (on the shared base, in memory) and the fields of the result that are known now.

    Raises:
        GateError: a gate failed; the run has no score.
        DivergedError: the loss or a gradient is not finite.
    """
    from hubinit import adapters, methods, tasks
    from hubinit.adapters import gates
    from hubinit.inits.make import gate_batch, initialised
    from hubinit.training.trainer import remove_checkpoints, train

    assert spec.data is not None and spec.recipe is not None
    examples, validation = tasks.training_examples(spec.data, spec.seed)
    batch = gate_batch(examples, loaded)
    calibration = None
    if spec.calibration is not None:
        stage("calibrate")
        with watch.stage("calibrate"):
            calibration = calibrations(job, spec, loaded, stage)
        watch.charge("calibrate", calibration.seconds)
    stage("initialise")
    with watch.stage("initialise"):
        model = initialised(spec, loaded, calibration)
    measured = {"start": gates.check_start(model, batch, methods.get(spec.method.name).start)}
    adapters.save_initialized(model, folder / "init")
    if job.force:
        ResultStore(job.store).forget(spec.key)  # its scores belong to the adapter that is replaced now
        remove_checkpoints(folder / "checkpoints")  # of an attempt that was cut off: start over, don't go on
    stage("train")
    with watch.stage("train"):
        outcome = train(
            model,
            loaded.processor,
            examples,
            spec.recipe,
            learning_rate=spec.learning_rate,
            seed=spec.seed,
            validation=validation,
            output_dir=folder / "checkpoints",
            on_log=lambda step, steps, loss: stage("train", step=step, steps=steps, loss=loss),
        )
    measured["trained"] = gates.check_trained(model, batch)
    exported = adapters.export(model, folder / "adapter")
    measured["reload"] = gates.check_reload(model, folder / "adapter", batch)
    return model, {
        "validation_loss": outcome.validation_loss,
        "curve": outcome.curve,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "adapter_bytes": exported.bytes,
        "adapter_sha256": exported.sha256,
        "gates": measured,
        "initialisation": model.hubinit_report.summary(),
    }


def calibrations(job: Job, spec: RunSpec, loaded: "Loaded", stage: Emit) -> "Calibration":
    """The statistics for one run, from the pass over the calibration examples that all methods of the job share."""
    from hubinit import tasks
    from hubinit.calibration.shared import need_of, shared_calibration

    assert spec.calibration is not None and spec.data is not None
    settings = spec.calibration
    needs = [
        need_of(other.spec.method, other.spec.calibration)
        for other in job.assignments
        if other.spec.calibration is not None
        and other.spec.data == spec.data
        and other.spec.target_modules == spec.target_modules
        and other.spec.calibration.model_copy(update={"samples": settings.samples}) == settings
    ]
    pool, _ = tasks.training_examples(spec.data, settings.seed)
    return shared_calibration(
        loaded,
        pool,
        settings,
        needs,
        job.store / "calibrations",
        target_modules=spec.target_modules,
        on_batch=lambda done, total: stage("calibrate", step=done, steps=total),
        on_plan=print,  # into the worker's log
    )


def reload_adapter(loaded: "Loaded", folder: Path, stored: RunResult) -> Any:
    """Loads the exported adapter of a finished run onto the base, for further evaluations.

    Raises:
        HubinitError: the folder holds another adapter than the one whose scores are stored.
    """
    from peft import PeftModel

    weights = folder / "adapter" / "adapter_model.safetensors"
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != stored.adapter_sha256:
        raise HubinitError(f"{weights} is not the adapter of the stored result; run the same command with --force.")
    return PeftModel.from_pretrained(loaded.model, str(folder / "adapter"))


def score(
    model: Any, loaded: "Loaded", evaluations: Sequence[EvalSpec], batch_size: int, stage: Emit
) -> tuple[list[Score], list[str]]:
    """Evaluates task by task; a task that fails costs only its own scores.

    Returns:
        The scores, and a reason for each task that failed.
    """
    from hubinit.scoring.lm_eval import evaluate_one

    scores: list[Score] = []
    reasons: list[str] = []
    for evaluation in evaluations:
        report = partial(report_scored, stage, evaluation.task)
        report(0, 0)
        try:
            scores += evaluate_one(model, loaded.processor, evaluation, batch_size=batch_size, on_progress=report)
        except torch.OutOfMemoryError as error:
            reasons.append(f"{evaluation.task}: out of memory ({first_line(error)}); lower eval_batch_size")
        except Exception as error:  # whatever lm-eval or a data set does, the trained adapter and the other scores stay
            traceback.print_exc()
            reasons.append(f"{evaluation.task}: {first_line(error)}")
    return scores, reasons


def report_scored(stage: Emit, task: str, done: int, total: int) -> None:
    """Emits how many requests of a task are scored."""
    stage("evaluate", task=task, step=done, steps=total)


if __name__ == "__main__":
    sys.exit(main())
