"""`hubinit.json` for an adapter that was trained outside of a run, so that it too can be pushed, pulled and loaded."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from hubinit import methods
from hubinit.models.kinds import start_of
from hubinit.models.layers import base_of
from hubinit.records import MANIFEST, Manifest, Provenance, RunResult
from hubinit.specs import MethodSpec, ModelSpec, RunSpec

UNKNOWN = "unknown"  # the method of an adapter whose start nobody recorded


def write_manifest(model: PeftModel, directory: Path, files: Mapping[str, str], size: int, rank: int) -> None:
    """Writes what is known about an exported adapter; nothing where not even its base has a name.

    Args:
        model: that was exported.
        directory: holds the adapter.
        files: path in it ─► sha256.
        size: bytes of all files.
        rank: of the exported adapter.
    """
    config = json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
    if not config.get("base_model_name_or_path"):
        (directory / MANIFEST).unlink(missing_ok=True)
        return
    spec = _spec(model, config, rank)
    packages = ("hubinit", "torch", "transformers", "peft")
    result = RunResult(
        key=spec.key,
        spec=spec,
        status="ok",
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        adapter_bytes=size,
        adapter_sha256=files[SAFETENSORS_WEIGHTS_NAME],
        provenance=Provenance(
            versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
            hardware={},
            command="hubinit.export",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    Manifest(kind="trained", result=result, start=start_of(spec).key, files=dict(files)).write(directory)


def _spec(model: PeftModel, config: Mapping[str, Any], rank: int) -> RunSpec:
    """The start that the adapter was trained from, as far as the model remembers it; data and recipe are not known."""
    base, report = base_of(model), getattr(model, "hubinit_report", None)
    targets = config["target_modules"]
    known: dict[str, Any] = {
        "method": MethodSpec(name=UNKNOWN),
        "rank": rank,
        "alpha": config.get("lora_alpha") or rank,
    }
    if report is not None:
        registered = methods.METHODS.get(report.method)
        known = {
            "method": MethodSpec(
                name=report.method, options=report.options, version=registered.version if registered else 1
            ),
            "rank": report.rank,
            "alpha": report.alpha,
            "rslora": report.rslora,
            "seed": report.seed,
        }
    return RunSpec(
        model=ModelSpec(
            id=config["base_model_name_or_path"],
            revision=config.get("revision") or getattr(getattr(base, "config", None), "_commit_hash", None),
            kind="vision" if getattr(base, "main_input_name", "") == "pixel_values" else "language",
        ),
        target_modules=targets if isinstance(targets, str) else tuple(sorted(targets)),
        **known,
    )
