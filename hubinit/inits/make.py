"""Making start points: load the base, calibrate, initialise, check, and write a folder that appears at once and complete."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from hubinit import adapters, tasks
from hubinit.calibration.shared import Need, Pool
from hubinit.data import chat
from hubinit.data.encode import Example
from hubinit.errors import HubinitError, first_line
from hubinit.hub.manifest import read_manifest
from hubinit.hub.publication import write_about
from hubinit.inits.plan import PlannedStart
from hubinit.models import base
from hubinit.models.base import Loaded
from hubinit.models.kinds import start_of
from hubinit.paths import home
from hubinit.records import MANIFEST, Manifest, RunResult
from hubinit.runs import stages
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.training import set_head
from hubinit.specs import RunSpec
from hubinit.training.advice import SUGGESTED
from hubinit.training.curvature import EXAMPLES, suggest_learning_rate

Tell = Callable[[str, int, int], None]  # what is done now, steps done, steps in all (0: unknown)
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


def load_base(spec: RunSpec, watch: Stopwatch, report: Tell) -> Loaded:
    """Loads the base of a start point, with the head of its task for a labelled kind."""
    report(f"loading {spec.model.id} in {spec.model.dtype}", 0, 0)
    with watch.stage("load"):
        return base.load(spec.model, labels=tasks.head_labels(spec))


def pool_of(planned: PlannedStart, loaded: Loaded, samples: int) -> Pool:
    """At most `samples` examples to calibrate on, chosen by the calibration's seed; where there are none, a few for the gate.

    A learning rate is measured on the first of them.

    Raises:
        HubinitError: data that this model's tokenizer cannot use, or a data set that cannot be had.
    """
    spec = planned.spec
    seed = spec.calibration.seed if spec.calibration else 0
    data = spec.data if planned.trial is None else planned.trial.data
    samples = samples if planned.trial is None else max(samples, EXAMPLES)
    if planned.own is not None:
        return chat.examples(planned.own, loaded.processor, samples=samples, seed=seed)
    if data is None:
        return [ANY_TEXT]
    most = max(samples, 4)
    few = data.model_copy(update={"samples": min(most, data.samples or most)})
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
    report: Tell,
    on_note: Callable[[str], None] = lambda note: None,
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
        on_note: told why no learning rate is suggested, where one was wanted.

    Raises:
        HubinitError: the method cannot initialise this model with these data, or the start is not the promised one.
    """
    spec, folder = start.spec, folder.resolve()  # `.` has no name of its own
    set_head(spec, loaded)
    calibration = None
    if spec.calibration is not None:
        calibration = stages.calibrate_start(
            spec,
            loaded,
            pool,
            needs,
            home() / "calibrations",
            watch,
            on_batch=lambda done, total: report("calibrating", done, total),
            on_plan=lambda plan: report(f"memory plan: {plan.summary}", 0, 0),
        )
    report(f"initialising {spec.method.name} at rank {spec.rank}", 0, 0)
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        made = stages.make_start(spec, loaded, calibration, pool, temporary, watch, population=start.population)
        facts = made.facts(calibration)
        if start.trial is not None:
            report("measuring the curvature at the start", 0, 0)
            facts["initialisation"] |= suggest_rate(start.trial, made.model, loaded, pool, on_note)
        result = RunResult(
            key=spec.key,
            spec=spec,
            status="ok",
            costs=watch.costs,
            adapter_bytes=made.saved.bytes,
            adapter_sha256=made.saved.sha256,
            gates=made.gates,
            provenance=provenance(command),
            **facts,
        )
        manifest = write_about(result, temporary, "initialised", HfApi(), final=folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
        return manifest
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        adapters.detach(loaded.model)


def suggest_rate(
    trial: RunSpec, model: Any, loaded: Loaded, pool: Pool, on_note: Callable[[str], None]
) -> dict[str, float]:
    """What the curvature at a start suggests for AdamW, by its name in the summary; nothing where it suggests none.

    Args:
        trial: the training.
        model: with the start attached.
        loaded: its base, with the processor.
        pool: the examples that the start was calibrated on, or others of its data.
        on_note: told why there is no suggestion.
    """
    assert trial.recipe is not None
    try:
        found = suggest_learning_rate(model, loaded.processor, pool[:EXAMPLES], trial.recipe)
    except (HubinitError, torch.OutOfMemoryError) as error:  # the start itself is made
        on_note(f"No learning rate is suggested: {first_line(error)}")
        return {}
    return {SUGGESTED: found.rate}
