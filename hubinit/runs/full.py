"""Full fine-tuning, the upper reference of a benchmark: every weight of the base trains, and there is no adapter.

A base in bfloat16 trains in mixed precision: its products are bfloat16, its weights float32, because the updates are mostly
smaller than what bfloat16 can add to a weight. Afterwards the weights have their own type again. They are as large as the
base, so they stay in the run's folder and are never published.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hubinit.adapters.gates import deviation, evaluating, logits
from hubinit.adapters.saving import write_tensors
from hubinit.errors import GateError, HubinitError
from hubinit.models.base import Loaded
from hubinit.paths import sha256_of
from hubinit.records import RunResult
from hubinit.runs.costs import Stopwatch
from hubinit.runs.diagnosing import NeutralText, neutral_text, summary
from hubinit.runs.job import Job
from hubinit.runs.training import OnProgress, gate_batch, read_data, run_training

WEIGHTS = "weights/model.safetensors"  # in the folder of a run


def train_weights(
    job: Job, loaded: Loaded, folder: Path, watch: Stopwatch, report: OnProgress
) -> tuple[Any, dict[str, Any]]:
    """Trains all weights of the base in memory, which is another model afterwards: it must not serve another run.

    Returns:
        The trained model, and the fields of the result that are known now; of a rank that is not the first, none.

    Raises:
        GateError: training changed nothing, or what was saved is not what is in memory.
        DivergedError: the loss or a gradient is not finite.
    """
    model, data = loaded.model, read_data(job, loaded, report)
    batch = gate_batch(data[0], loaded)
    with evaluating(model):
        before = logits(model, batch)
    with watch.stage("diagnose"):
        text = neutral_text(loaded) if job.diagnostics else None
        untrained = text.loss(model, loaded) if isinstance(text, NeutralText) else 0.0
    types = [(parameter, parameter.dtype) for parameter in model.parameters()]
    for parameter, _ in types:
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_(True)
    mixed = loaded.dtype == torch.bfloat16
    outcome = run_training(job, loaded, model, data, folder, watch, report, mixed=mixed)
    if job.rank:
        return model, {}
    for parameter, dtype in types:
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
    with evaluating(model):
        moved = deviation(logits(model, batch), before)
    if not moved > 0:
        raise GateError("trained gate: the logits are exactly the base's (deviation 0).")
    path = save_weights(model, folder)
    with watch.stage("diagnose"):
        forgot = text.compare(untrained, text.loss(model, loaded)) if isinstance(text, NeutralText) else text
    return model, {
        "trainable_parameters": sum(parameter.numel() for parameter, _ in types),
        "validation_loss": outcome.validation_loss,
        "curve": outcome.curve,
        "cut_examples": outcome.cut,
        "diagnostics": summary(outcome, forgot),
        "adapter_bytes": path.stat().st_size,
        "adapter_sha256": sha256_of(path),
        "gates": {"trained": moved, "reload": 0.0},
    }


def save_weights(model: Any, folder: Path) -> Path:
    """Writes all weights and buffers, tied ones once, and reads them back.

    Raises:
        GateError: a tensor in the file is not the one in memory.
    """
    path, tensors = folder / WEIGHTS, tensors_of(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, path)
    with safe_open(path, "pt") as stored:
        for name, tensor in tensors.items():
            if not torch.equal(stored.get_tensor(name), tensor.cpu()):
                raise GateError(f"reload gate: {name} in {path} is not the one in memory.")
    return path


def load_weights(loaded: Loaded, folder: Path, stored: RunResult) -> Any:
    """Puts the trained weights of a finished run into the base, for further evaluations.

    Raises:
        HubinitError: the folder holds other weights than those whose scores are stored.
    """
    path, tensors = folder / WEIGHTS, tensors_of(loaded.model)
    if not path.is_file() or sha256_of(path) != stored.adapter_sha256:
        raise HubinitError(f"{path} is not the model of the stored result; run the same command with --force.")
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(file.get_tensor(name))
    return loaded.model


def tensors_of(model: Any) -> dict[str, Tensor]:
    """Weights and buffers by name; a tied weight has one name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
