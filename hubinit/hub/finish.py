"""`hubinit finish` and `hubinit.finish`: an adapter that was trained elsewhere, made right for the untouched base.

The mathematics is in `hubinit.adapters.finish`; here the start may come from a Hub, is checked against its `hubinit.json`, and
the result says where it comes from.
"""

from pathlib import Path

from huggingface_hub import HfApi

from hubinit.adapters.finish import finish_files
from hubinit.adapters.reload import adapter_folder
from hubinit.adapters.saving import SavedAdapter
from hubinit.adapters.untrusted import WEIGHTS
from hubinit.errors import HubError, HubinitError
from hubinit.hub.manifest import CARD, read_manifest
from hubinit.hub.publication import write_about
from hubinit.records import MANIFEST, SCHEMA_VERSION, Manifest, RunResult

TRAINED_ELSEWHERE = "trained elsewhere from this start, then finished"
OURS = {"adapter_config.json", WEIGHTS, CARD, MANIFEST}


def finish(
    adapter: str | Path, init: str | Path, out: str | Path, *, revision: str | None = None, api: HfApi | None = None
) -> SavedAdapter:
    """Turns an adapter that any trainer saved into one exact plain LoRA on the untouched base.

    Whoever trains from the two printed lines holds an adapter that is right only on the base with the anchor merged in. This
    puts the anchor into the adapter: per module A' = [A; A₀], B' = [s·B, −s₀·B₀], rank 2r. No model is loaded. Where the start
    has no anchor, the adapter is right already and is copied.

    Args:
        adapter: folder (or Hub repo) that PEFT, transformers' Trainer, TRL or another tool saved.
        init: folder or Hub repo of the start point that the training began with.
        out: folder for the result; it may hold an earlier result, and nothing else. Besides the adapter it gets a card and
            `hubinit.json`, where the start has one.
        revision: commit, branch or tag of the start's repo.
        api: client, for the base model's licence on the card; default: the environment's.

    Returns:
        What was written. A server must allow its rank (vLLM: `max_lora_rank`).

    Raises:
        HubError: a repo cannot be read, or the start is not what its `hubinit.json` says.
        HubinitError: the adapter was trained from another start, or has no plain LoRA form.
    """
    out = Path(out)
    start = adapter_folder(init, revision)
    manifest = _checked_manifest(start)
    if out.exists() and (foreign := {path.name for path in out.iterdir()} - OURS):
        raise HubinitError(
            f"{out} holds other files ({', '.join(sorted(foreign)[:3])}): choose an empty or new folder."
        )
    saved = finish_files(adapter_folder(adapter), start, out)
    for stale in (MANIFEST, CARD):  # of an earlier result
        (out / stale).unlink(missing_ok=True)
    if manifest is not None:
        write_about(trained_elsewhere(manifest.result, saved), saved.directory, "trained", api or HfApi())
    return saved


def trained_elsewhere(start: RunResult, saved: SavedAdapter) -> RunResult:
    """What is known about the adapter: how its start was made, and nothing about the training (no recipe, no scores)."""
    spec = start.spec.model_copy(update={"recipe": None, "learning_rate": 0.0})
    known = {
        "schema_version": SCHEMA_VERSION,
        "key": spec.key,
        "spec": spec,
        "status": "ok",
        "reason": TRAINED_ELSEWHERE,
        "costs": {stage: cost for stage, cost in start.costs.items() if stage in ("load", "calibrate", "initialise")},
        "adapter_sha256": saved.sha256,
        "adapter_bytes": saved.bytes,
    }
    return start.model_copy(
        update={**known, "scores": (), "validation_loss": None, "curve": (), "gates": {}, "diagnostics": None}
    )


def _checked_manifest(start: Path) -> Manifest | None:
    """The start's `hubinit.json`, after a look at every file it lists; None where there is none."""
    if not (start / MANIFEST).is_file():
        return None
    manifest = read_manifest((start / MANIFEST).read_bytes(), str(start))
    if name := manifest.problem(start):
        raise HubError(f"{name} in {start} is not the file that its {MANIFEST} describes; fetch the start again.")
    return manifest
