"""Making start points: load the base, calibrate, initialise, check, and write a folder that appears at once and complete."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubinit.data.encode import Example, ImageExample, TokenExample
from hubinit.errors import HubinitError
from hubinit.inits.plan import PlannedStart
from hubinit.paths import home
from hubinit.records import MANIFEST, Manifest, RunResult
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.specs import RunSpec

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from hubinit.calibration import Calibration
    from hubinit.calibration.shared import Need
    from hubinit.models.base import Loaded

Pool = Sequence[Example | TokenExample] | Sequence[ImageExample]
Report = Callable[[str, int, int], None]  # what is done now, steps done, steps in all (0: unknown)
ANY_TEXT = Example(
    "The sky on a clear day is", " blue, and at night it is black."
)  # for the gate of methods without data


def finished(folder: Path, spec: RunSpec) -> Manifest | None:
    """The start point that lies in a folder already, or None when the folder is free.

    Raises:
        HubinitError: the folder holds something else.
    """
    from hubinit.hub.manifest import read_manifest

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if (folder / MANIFEST).is_file():
        manifest = read_manifest((folder / MANIFEST).read_bytes(), str(folder))
        if manifest.kind == "initialised" and manifest.result.key == spec.key and manifest.problem(folder) is None:
            return manifest
    raise HubinitError(f"{folder} holds something else than this start point; delete it or choose another folder.")


def load_base(spec: RunSpec, watch: Stopwatch, report: Report) -> "Loaded":
    """Loads the base of a start point, with the head of its task for an image classifier."""
    from hubinit import tasks
    from hubinit.models import base

    report(f"loading {spec.model.id}", 0, 0)
    labels = (
        tasks.labels(spec.data.tasks[0], spec.data.revisions[0]) if spec.model.kind == "vision" and spec.data else None
    )
    with watch.stage("load"):
        return base.load(spec.model, labels=labels)


def pool_of(planned: PlannedStart, loaded: "Loaded", samples: int) -> Pool:
    """The calibration examples: as many as asked for, chosen by the calibration's seed.

    Raises:
        HubinitError: data that this model's tokenizer cannot use, or a data set that cannot be had.
    """
    from hubinit import tasks
    from hubinit.data import chat

    spec = planned.spec
    seed = spec.calibration.seed if spec.calibration else 0
    if planned.own is not None:
        return chat.examples(planned.own, loaded.processor, samples=samples, seed=seed)
    if spec.data is None:
        return [ANY_TEXT]
    return tasks.training_examples(spec.data, seed)[0]


def gate_batch(pool: Pool, loaded: "Loaded") -> "dict[str, Tensor]":
    """The first four examples, cut to 64 tokens, on the model's device: what the gates look at."""
    from hubinit.data.encode import batches

    (batch,) = batches(pool[:4], loaded.processor, batch_size=4, max_length=64)
    return {name: tensor.to(loaded.device) for name, tensor in batch.items()}


def initialised(spec: RunSpec, loaded: "Loaded", calibration: "Calibration | None") -> "PeftModel":
    """The base with the adapter that a run starts from."""
    from hubinit import adapters

    return adapters.initialize(
        loaded.model,
        spec.method.name,
        rank=spec.rank,
        alpha=spec.alpha,
        calibration=calibration,
        target_modules=spec.target_modules,
        rslora=spec.rslora,
        seed=spec.seed,
        **spec.method.options,
    )


def make_start(
    spec: RunSpec,
    loaded: "Loaded",
    pool: Pool,
    needs: "Sequence[Need]",
    folder: Path,
    *,
    watch: Stopwatch,
    command: str,
    report: Report,
) -> Manifest:
    """Calibrates (with what other methods need of the same data), initialises, checks and writes one start point.

    The folder appears at once and complete. The base is untouched afterwards.

    Args:
        spec: from `start_spec`.
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
    from hubinit import adapters, methods
    from hubinit.adapters import gates
    from hubinit.calibration.shared import shared_calibration

    calibration = None
    if spec.calibration is not None:
        report("calibrating", 0, 0)
        with watch.stage("calibrate"):
            calibration = shared_calibration(
                loaded,
                pool,
                spec.calibration,
                needs,
                home() / "calibrations",
                target_modules=spec.target_modules,
                on_batch=lambda done, total: report("calibrating", done, total),
                on_plan=lambda plan: report(f"memory plan: {plan.summary}", 0, 0),
            )
        watch.charge("calibrate", calibration.seconds)
    report(f"initialising {spec.method.name} at rank {spec.rank}", 0, 0)
    batch = gate_batch(pool, loaded)
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        with watch.stage("initialise"):
            model = initialised(spec, loaded, calibration)
        measured = gates.check_start(model, batch, methods.get(spec.method.name).start)
        saved = adapters.save_initialized(model, temporary, base=spec.model.id, revision=spec.model.revision)
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
            gates={"start": measured},
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


def write_about(result: RunResult, directory: Path, final: Path) -> Manifest:
    """Writes the card and `hubinit.json` of a start point that will lie in the folder `final`."""
    from huggingface_hub import HfApi

    from hubinit.hub.manifest import CARD
    from hubinit.hub.publication import base_licence, card_of, describe

    manifest = describe(result, directory, "initialised")
    card = card_of(manifest, str(final), directory, licence=base_licence(HfApi(), result.spec))
    (directory / CARD).write_text(card, encoding="utf-8")
    return manifest
