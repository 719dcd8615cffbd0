"""Run results and adapter folders of a few hundred bytes, for tests that need no model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from hubinit.hub.outbox import Delivered
from hubinit.hub.publication import of_run
from hubinit.hub.send import send
from hubinit.records import Cost, Provenance, RunResult, Score
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec

if TYPE_CHECKING:
    import torch
    from huggingface_hub import HfApi


def run(
    method: str = "filet",
    lr: float = 1e-4,
    seed: int = 0,
    *,
    value: float | None = 0.5,
    model: str = "alice/tiny-llama",
    revision: str | None = "a" * 40,
    tasks: tuple[str, ...] = ("arc-easy",),
    command: str = "hubinit bench --models alice/tiny-llama --methods filet",
) -> RunResult:
    """A finished run (a failed one when `value` is None)."""
    spec = RunSpec(
        model=ModelSpec(id=model, revision=revision),
        method=MethodSpec(name=method, options={"train_a": True}),
        rank=2,
        alpha=4,
        data=DataSpec(tasks=tasks, revisions=("b" * 40,)),
        recipe=Recipe(steps=40),
        calibration=CalibrationSpec(samples=16),
        learning_rate=lr,
        seed=seed,
    )
    scores = [
        Score(
            task=t, metric="acc_norm", value=value, n=100, stderr=0.05, primary=True, eval=EvalSpec(task=t, limit=100)
        )
        for t in tasks
        if value is not None
    ]
    return RunResult(
        key=spec.key,
        spec=spec,
        status="failed" if value is None else "ok",
        reason="out of memory" if value is None else None,
        scores=tuple(scores),
        costs={"calibrate": Cost(seconds=2.0), "initialise": Cost(seconds=0.25)},
        trainable_parameters=1234,
        provenance=Provenance(
            versions={"torch": "2.13.0"},
            hardware={"cpu": "2 cores"},
            git_sha="c" * 40,
            command=command,
            created="2026-11-20T12:00:00Z",
        ),
    )


def adapter_files(folder: Path, scale: float = 1.0, base: str = "alice/tiny-llama") -> Path:
    """Writes something with the shape of a PEFT adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base, "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {"base_model.model.q.lora_A.weight": np.full((2, 8), scale, np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def run_folder(root: Path, scale: float = 1.0, anchor: bool = True) -> Path:
    """Writes the folder of a run: `adapter/`, `init/` and its anchor."""
    adapter_files(root / "adapter", scale)
    adapter_files(root / "init", scale)
    if anchor:
        adapter_files(root / "init" / "anchor", -scale)
    return root


def publish_run(
    api: "HfApi", result: RunResult, folder: Path, namespace: str, *, private: bool = True, **options: Any
) -> list[Delivered]:
    """Sends the adapters of a run, each to a repo of its own; `options` as for `of_run`."""
    return [
        Delivered.to_hub(api, one.repo_id, "model", send(api, one, private=private))
        for one in of_run(api, result, folder, namespace, **options)
    ]


def visible_adapter(folder: Path, sign: float = 1.0) -> "torch.Tensor":
    """Writes a LoRA for the tiny llama with factors that move the logits by far; returns the logits with it.

    `sign` −1 gives its anchor.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from tests.cases import build

    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(build("llama"), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * (sign if "lora_B" in name else 1.0) * 0.3)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        return logits(model)


def logits(model: "torch.nn.Module") -> "torch.Tensor":
    """Its logits on ten tokens."""
    import torch

    with torch.no_grad():
        return model(torch.arange(2, 12)[None]).logits.float()


def publish_tiny_llama(api: "HfApi", folder: Path) -> tuple[str, str]:
    """Puts the tiny llama on the Hub; returns its id and commit."""
    from tests.cases import build

    build("llama").save_pretrained(folder)
    api.create_repo("alice/tiny-llama", exist_ok=True)
    return "alice/tiny-llama", api.upload_folder(folder_path=folder, repo_id="alice/tiny-llama").oid
