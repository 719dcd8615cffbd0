"""One run from its base in memory to its scores: calibrate ─► initialise ─► gate ─► train ─► gate ─► evaluate."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from hubinit import adapters, methods, tasks
from hubinit.adapters import gates
from hubinit.adapters.calibrating import need_of
from hubinit.calibration import Calibration
from hubinit.calibration.memory import MemoryPlan
from hubinit.calibration.shared import Need, Pool, calibrate_shared
from hubinit.errors import HubinitError, InitialisationError, first_line
from hubinit.models.base import Loaded
from hubinit.models.kinds import head_seed
from hubinit.paths import sha256_of
from hubinit.records import Forgetting, Provenance, ResultStore, RunResult, Score
from hubinit.remote import redact
from hubinit.runs.costs import Stopwatch
from hubinit.runs.diagnosing import neutral_text, watch_adapter
from hubinit.runs.full import load_weights, train_weights
from hubinit.runs.job import Job, Progress
from hubinit.runs.lease import Holder, own_turn
from hubinit.runs.line import pass_of
from hubinit.runs.observing import count_trained
from hubinit.runs.training import OnProgress, during_training, gate_batch, read_data, run_training
from hubinit.scoring.contamination import mark_seen
from hubinit.scoring.engines import VllmModel, generates, load_vllm, with_vllm
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import FULL, EvalSpec, RunSpec


def run_stages(
    job: Job, loaded: Loaded, store: ResultStore, watch: Stopwatch, report: OnProgress, empty: RunResult
) -> RunResult:
    """Takes one run through the stages that it still needs.

    Args:
        job: the run.
        loaded: its base, untouched.
        store: where its result will lie; a finished one there is only scored further.
        watch: has the cost of loading already.
        report: called as the work goes on.
        empty: the result so far: key, specification, provenance.

    Raises:
        HubinitError: a stage failed; the message says why.
    """
    spec, folder = job.spec, store.folder(job.spec.key)
    stored = None if job.force else store.readable(spec.key)
    if stored is not None and stored.status not in {"ok", "partial"}:
        stored = None
    result = empty
    if spec.recipe is None:  # the base as it is
        model: Any = loaded.model
    elif stored is not None:
        model = (load_weights if spec.method.name == FULL else reload_adapter)(loaded, folder, stored)
    elif spec.method.name == FULL:
        model, trained = train_weights(job, loaded, folder, watch, report)
        result = result.model_copy(update=trained)
    else:
        model, trained = train_adapter(job, loaded, folder, watch, report)
        result = result.model_copy(update=trained)
    if stored is not None:
        result = stored.model_copy(update={"status": "ok", "reason": None})
        watch.costs = dict(stored.costs)  # the evaluation adds to what it cost before
    missing = [e for e in job.evaluations if stored is None or not stored.scored(e)]
    with watch.stage("evaluate"):
        scores, reasons = score(model, loaded, missing, job, store, report, empty.provenance)
    kept = [one for one in stored.scores if one.eval not in missing] if stored is not None else []
    if stored is not None:  # these may come from another machine and other versions than the adapter
        scores = [one.model_copy(update={"provenance": one.provenance or empty.provenance}) for one in scores]
    return result.model_copy(
        update={
            "status": "partial" if reasons else "ok",
            "reason": redact("; ".join(reasons)) or None,
            "scores": (*kept, *scores),
            "costs": watch.costs,
        }
    )


def train_adapter(
    job: Job, loaded: Loaded, folder: Path, watch: Stopwatch, report: OnProgress
) -> tuple[Any, dict[str, Any]]:
    """Calibrates, initialises, trains and exports one adapter, with the gates between the stages.

    Returns:
        The trained model (on the shared base, in memory) and the fields of the result that are known now.

    Raises:
        GateError: a gate failed; the run has no score.
        DivergedError: the loss or a gradient is not finite.
    """
    spec = job.spec
    data = read_data(job, loaded, report)
    population = len(data[0])
    calibration = calibrate_run(job, loaded, watch, report) if spec.calibration is not None else None
    report(Progress(key=spec.key, stage="initialise"))
    start = make_start(spec, loaded, calibration, data[0], folder / "init", watch, population=population)
    model = start.model
    acting = during_training(spec, model, population)
    diagnosis = watch_adapter(model, costly=job.diagnostics)
    acting["callbacks"] = [*acting.get("callbacks", ()), *diagnosis.callbacks]
    outcome = run_training(job, loaded, model, data, folder, watch, report, **acting)
    trained = gates.check_trained(model, start.batch)
    exported = adapters.export(model, folder / "adapter")
    reload = gates.check_reload(model, folder / "adapter", start.batch)
    report(Progress(key=spec.key, stage="diagnose"))
    with watch.stage("diagnose"):
        forgot = measure_forgetting(model, loaded) if job.diagnostics else None
        diagnostics = diagnosis.finish(outcome, folder, forgot)
    return model, {
        **start.facts(calibration),
        "trainable_parameters": count_trained(model),  # the optimiser may freeze A, and directions come later
        "validation_loss": outcome.validation_loss,
        "curve": outcome.curve,
        "cut_examples": outcome.cut,
        "diagnostics": diagnostics,
        "adapter_bytes": exported.bytes,
        "adapter_sha256": exported.sha256,
        "gates": {**start.gates, "trained": trained, "reload": reload},
    }


def follow(job: Job, loaded: Loaded, folder: Path, report: OnProgress) -> None:
    """What every rank but the first does of a run: the same start, and its share of training. It writes nothing.

    The first rank has calibrated by then, so the statistics are in the store.
    """
    spec, watch = job.spec, Stopwatch()
    if spec.method.name == FULL:
        train_weights(job, loaded, folder, watch, report)
        return
    data = read_data(job, loaded, report)
    calibration = calibrate_run(job, loaded, watch, report) if spec.calibration is not None else None
    model = attach_start(spec, loaded, calibration, population=len(data[0]))
    acting = during_training(spec, model, len(data[0]))
    run_training(job, loaded, model, data, folder, watch, report, **acting)


def measure_forgetting(model: PeftModel, loaded: Loaded) -> Forgetting | str:
    """What a trained adapter costs on neutral text, or why that cannot be measured."""
    text = neutral_text(loaded)
    if isinstance(text, str):
        return text
    with adapters.untouched_base(model) as base:
        before = text.loss(base, loaded)
    return text.compare(before, text.loss(model, loaded))


def calibrate_run(job: Job, loaded: Loaded, watch: Stopwatch, report: OnProgress) -> Calibration:
    """The statistics for one run, from the pass over the calibration examples that its peers share, one process at a time."""
    spec = job.spec
    assert spec.calibration is not None and spec.data is not None

    def wait(holder: Holder) -> None:
        report(Progress(key=spec.key, stage=f"wait for the calibration that {holder} makes"))

    with own_turn(job.store, f"calibration-{pass_of(spec)}", wait):
        report(Progress(key=spec.key, stage="calibrate"))
        return calibrate_start(
            spec,
            loaded,
            tasks.training_examples(spec.data, spec.calibration.seed)[0],
            [need_of(peer.method, peer.calibration) for peer in job.peers or (spec,) if peer.calibration is not None],
            job.store / "calibrations",
            watch,
            on_batch=lambda done, total: report(Progress(key=spec.key, stage="calibrate", step=done, steps=total)),
            on_plan=print,  # into the run's log
        )


def calibrate_start(
    spec: RunSpec,
    loaded: Loaded,
    pool: Pool,
    needs: Sequence[Need],
    kept_in: Path,
    watch: Stopwatch,
    *,
    on_batch: Callable[[int, int], None],
    on_plan: Callable[[MemoryPlan], None],
) -> Calibration:
    """The statistics for one start; it is charged what it needs of them, whoever needed the rest."""
    assert spec.calibration is not None
    with watch.stage("calibrate"):
        calibration = calibrate_shared(
            loaded,
            pool,
            spec.calibration,
            needs,
            kept_in,
            target_modules=spec.target_modules,
            head=head_seed(spec),
            on_batch=on_batch,
            on_plan=on_plan,
        )
    needed = need_of(spec.method, spec.calibration).statistics
    watch.charge("calibrate", calibration.seconds_for(needed), shared=calibration.seconds)
    return calibration


@dataclass(frozen=True)
class Start:
    """A start that is attached, saved, and checked in memory and as it is printed."""

    model: PeftModel
    saved: adapters.SavedAdapter
    batch: dict[str, Tensor]  # what the gates look at
    gates: dict[str, float]

    def facts(self, calibration: Calibration | None) -> dict[str, Any]:
        """The fields of a result that a start decides."""
        return {
            "calibration_examples": calibration.examples if calibration is not None else None,
            "trainable_parameters": count_trained(self.model),
            "initialisation": self.model.hubinit_report.summary(),
            "left_out": self.model.hubinit_report.left_out,
        }


def make_start(
    spec: RunSpec,
    loaded: Loaded,
    calibration: Calibration | None,
    pool: Pool,
    folder: Path,
    watch: Stopwatch,
    *,
    population: int | None,
) -> Start:
    """Attaches the adapter that a run starts from, saves it, and holds it to what its method promises.

    Raises:
        GateError: the start is not the promised one.
        HubinitError: the method cannot initialise this model, or PEFT's own does not run on it.
    """
    batch = gate_batch(pool, loaded)
    with watch.stage("initialise"):
        model = attach_start(spec, loaded, calibration, population=population)
    measured = {"start": check_start(spec, model, batch)}
    saved = adapters.save_initialized(model, folder, base=spec.model.id, revision=spec.model.revision)
    promised = model.hubinit_report.start
    if (printed := gates.check_printed(model, folder, batch, promised)) is not None:
        measured["printed"] = printed
    return Start(model, saved, batch, measured)


def check_start(spec: RunSpec, model: PeftModel, batch: dict[str, Tensor]) -> float:
    """The deviation that the start gate measures.

    Raises:
        GateError: the start is not the promised one.
        InitialisationError: an adapter of PEFT does not run on this model.
    """
    promised = model.hubinit_report.start
    try:
        return gates.check_start(model, batch, promised)
    except (RuntimeError, ValueError, AttributeError) as error:
        own = spec.method.name == "none" or methods.get(spec.method.name).factors is not None
        if own or isinstance(error, torch.OutOfMemoryError):
            raise
        raise InitialisationError(
            f"PEFT's {spec.method.name} does not run on {spec.model.id} in {spec.model.dtype} ({first_line(error)}); "
            "try --dtype float32, or choose another method."
        ) from error


def attach_start(
    spec: RunSpec, loaded: Loaded, calibration: Calibration | None, *, population: int | None
) -> PeftModel:
    """The base with the adapter that a run starts from; `population` is the length of its training set, where known."""
    if spec.method.name == "none":
        return adapters.attach_head(loaded.model, seed=spec.seed_of("init"))
    return adapters.initialize(
        loaded.model,
        spec.method.name,
        rank=spec.rank,
        alpha=spec.alpha,
        calibration=calibration,
        target_modules=spec.target_modules,
        rslora=spec.rslora,
        lora_dropout=spec.recipe.lora_dropout if spec.recipe is not None else 0.0,
        seed=spec.seed_of("init"),
        population=population,
        **spec.method.options,
    )


def reload_adapter(loaded: Loaded, folder: Path, stored: RunResult) -> PeftModel:
    """Loads the exported adapter of a finished run onto the base, for further evaluations.

    Raises:
        HubinitError: the folder holds another adapter than the one whose scores are stored.
    """
    weights = folder / "adapter" / "adapter_model.safetensors"
    if not weights.is_file() or sha256_of(weights) != stored.adapter_sha256:
        raise HubinitError(f"{weights} is not the adapter of the stored result; run the same command with --force.")
    return PeftModel.from_pretrained(loaded.model, str(folder / "adapter"))


def score(
    model: Any,
    loaded: Loaded,
    evaluations: Sequence[EvalSpec],
    job: Job,
    store: ResultStore,
    report: OnProgress,
    provenance: Provenance,
) -> tuple[list[Score], list[str]]:
    """Evaluates task by task and stores every answer; a task that fails costs only its own scores.

    Returns:
        The scores, and a reason for each task that failed.
    """
    scores: list[Score] = []
    reasons: list[str] = []
    for evaluation in evaluations:

        def tell(done: int, total: int, task: str = evaluation.task) -> None:
            report(Progress(key=job.spec.key, stage="evaluate", step=done, steps=total, task=task))

        tell(0, 0)
        try:
            answering = model
            if job.engine == "vllm" and generates(evaluation):  # else vLLM has nothing to do
                if job.spec.method.name == FULL:
                    raise HubinitError(
                        "vLLM answers with the base or an adapter, and 'full' has neither; leave out --engine."
                    )
                adapter = None if job.spec.method.name == "none" else store.folder(job.spec.key) / "adapter"
                answering = load_vllm(loaded.spec, adapter)
            scored = evaluate_one(
                answering, loaded.processor, evaluation, batch_size=job.eval_batch_size, on_progress=tell
            )
            with suppress(HubinitError):  # training data that cannot be had any more cost the marks, not the score
                scored = mark_seen(scored, evaluation, job.spec.data) if job.spec.data else scored
            made = with_vllm(provenance) if isinstance(answering, VllmModel) else None
            kept = [one.model_copy(update={"provenance": made}) for one in scored.scores]
            scores += store.write_items(job.spec.key, kept, scored.items)
            reasons += [f"{evaluation.task} without {note.rstrip('.')}" for note in scored.notes]
        except torch.OutOfMemoryError as error:
            reasons.append(f"{evaluation.task}: out of memory with one example at a time ({first_line(error)})")
        except Exception as error:  # whatever lm-eval or a data set does, the trained adapter and the other scores stay
            traceback.print_exc()
            reasons.append(f"{evaluation.task}: {first_line(error)}")
    return scores, reasons
