"""Making start points: load the base, calibrate, initialise, check, and write a folder that appears at once and complete."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import HfApi
from peft import PeftModel
from torch import OutOfMemoryError, Tensor

from hubinit import adapters, methods, tasks
from hubinit.adapters import gates
from hubinit.adapters.calibrating import need_of
from hubinit.calibration import Calibration
from hubinit.calibration.shared import Need, calibrate_shared
from hubinit.data import chat
from hubinit.data.encode import Example
from hubinit.errors import HubinitError, InitialisationError, first_line
from hubinit.hub.manifest import CARD, read_manifest
from hubinit.hub.publication import base_licence, card_of, describe
from hubinit.inits.plan import PlannedStart
from hubinit.models import base
from hubinit.models.base import Loaded
from hubinit.models.kinds import KINDS, start_of
from hubinit.paths import home
from hubinit.records import MANIFEST, Manifest, RunResult
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.stages import Pool, attach_start, gate_batch
from hubinit.specs import RunSpec

Report = Callable[[str, int, int], None]  # what is done now, steps done, steps in all (0: unknown)
ANY_TEXT = Example(
    "The sky on a clear day is", " blue, and at night it is black."
)  # for the gate of methods without data


def read_start(folder: Path, spec: RunSpec) -> Manifest | None:
    """The start point that lies in a folder already, or None when the folder is free.

    Raises:
        HubinitError: the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if (folder / MANIFEST).is_file():
        manifest = read_manifest((folder / MANIFEST).read_bytes(), str(folder))
        whole = manifest.problem(folder) is None
        if manifest.kind == "initialised" and start_of(manifest.result.spec).key == spec.key and whole:
            return manifest
    raise HubinitError(f"{folder} holds something else than this start point; delete it or choose another folder.")


def load_base(spec: RunSpec, watch: Stopwatch, report: Report) -> Loaded:
    """Loads the base of a start point, with the head of its task for a labelled kind."""
    report(f"loading {spec.model.id} in {spec.model.dtype}", 0, 0)
    labelled = KINDS[spec.model.kind].labelled and spec.data is not None
    labels = tasks.labels(spec.data.tasks[0], spec.data.revisions[0]) if labelled and spec.data else None
    with watch.stage("load"):
        return base.load(spec.model, labels=labels)


def pool_of(planned: PlannedStart, loaded: Loaded, samples: int) -> Pool:
    """At most `samples` examples to calibrate on, chosen by the calibration's seed; where there are none, a few for the gate.

    Raises:
        HubinitError: data that this model's tokenizer cannot use, or a data set that cannot be had.
    """
    spec = planned.spec
    seed = spec.calibration.seed if spec.calibration else 0
    if planned.own is not None:
        return chat.examples(planned.own, loaded.processor, samples=samples, seed=seed)
    if spec.data is None:
        return [ANY_TEXT]
    most = max(samples, 4)
    few = spec.data.model_copy(update={"samples": min(most, spec.data.samples or most)})
    return tasks.training_examples(few, seed)[0]


def make_start(
    start: PlannedStart,
    loaded: Loaded,
    pool: Pool,
    needs: Sequence[Need],
    folder: Path,
    *,
    watch: Stopwatch,
    command: str,
    report: Report,
) -> Manifest:
    """Calibrates (with what other methods need of the same data), initialises, checks and writes one start point.

    The folder appears at once and complete. The base is untouched afterwards.

    Args:
        start: from `plan_start`.
        loaded: its base model.
        pool: from `pool_of`.
        needs: what all methods ask of this calibration, this one included.
        folder: is created.
        watch: has the cost of loading already.
        command: how it was made, for the card.
        report: called as the work goes on.

    Raises:
        HubinitError: the method cannot initialise this model with these data, or the start is not the promised one.
    """
    spec = start.spec
    calibration = calibrate_start(spec, loaded, pool, needs, watch, report)
    report(f"initialising {spec.method.name} at rank {spec.rank}", 0, 0)
    batch = gate_batch(pool, loaded)
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        with watch.stage("initialise"):
            model = attach_start(spec, loaded, calibration, population=start.population)
        measured = check_gate(spec, model, batch)
        saved = adapters.save_initialized(model, temporary, base=spec.model.id, revision=spec.model.revision)
        printed = gates.check_printed(model, temporary, batch, methods.get(spec.method.name).start)
        result = RunResult(
            key=spec.key,
            spec=spec,
            status="ok",
            costs=watch.costs,
            calibration_examples=calibration.examples if calibration is not None else None,
            left_out=model.hubinit_report.left_out,
            trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            adapter_bytes=saved.bytes,
            adapter_sha256=saved.sha256,
            gates={"start": measured} | ({"printed": printed} if printed is not None else {}),
            initialisation=model.hubinit_report.summary(),
            provenance=provenance(command),
        )
        manifest = write_about(result, temporary, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
        return manifest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        adapters.detach(loaded.model)


def check_gate(spec: RunSpec, model: PeftModel, batch: dict[str, Tensor]) -> float:
    """The deviation that the start gate measures.

    Raises:
        HubinitError: the start is not the promised one, or an adapter of PEFT does not run on this model.
    """
    method = methods.get(spec.method.name)
    try:
        return gates.check_start(model, batch, method.start)
    except (RuntimeError, ValueError, AttributeError) as error:
        if method.factors is not None or isinstance(error, OutOfMemoryError):
            raise
        raise InitialisationError(
            f"PEFT's {method.name} does not run on {spec.model.id} in {spec.model.dtype} ({first_line(error)}); "
            "try --dtype float32, or choose another method."
        ) from error


def calibrate_start(
    spec: RunSpec, loaded: Loaded, pool: Pool, needs: Sequence[Need], watch: Stopwatch, report: Report
) -> Calibration | None:
    """The statistics that a start point is made from; None for weight-only methods."""
    if spec.calibration is None:
        return None
    with watch.stage("calibrate"):
        calibration = calibrate_shared(
            loaded,
            pool,
            spec.calibration,
            needs,
            home() / "calibrations",
            target_modules=spec.target_modules,
            on_batch=lambda done, total: report("calibrating", done, total),
            on_plan=lambda plan: report(f"memory plan: {plan.summary}", 0, 0),
        )
    needed = need_of(spec.method, spec.calibration).statistics
    watch.charge("calibrate", calibration.seconds_for(needed), shared=calibration.seconds)
    return calibration


def write_about(result: RunResult, directory: Path, final: Path) -> Manifest:
    """Writes the card and `hubinit.json` of a start point that will lie in the folder `final`."""
    manifest = describe(result, directory, "initialised")
    card = card_of(manifest, str(final), directory, licence=base_licence(HfApi(), result.spec))
    (directory / CARD).write_text(card, encoding="utf-8")
    return manifest
