"""What an initialisation did, per module and in total; `peft_model.hubinit_report`."""

import hashlib
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field


class ModuleReport(BaseModel):
    """One adapted layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int] = Field(description="(m, n) = (out_features, in_features)")
    rank: int
    scaling: float = Field(description="s: alpha / r, or alpha / sqrt(r) with rsLoRA")
    relative_norm: float = Field(description="‖s·B₀A₀‖ / ‖W‖ (Frobenius)")
    merge_error: float = Field(
        description="‖round(W − s·B₀A₀) − (W − s·B₀A₀)‖ / ‖W‖: what merging the residual in the base's dtype would cost"
    )
    seconds: float
    values: dict[str, float] = Field(default_factory=dict, description="energies or spectrum kept, by the method")


class InitReport(BaseModel):
    """A whole initialisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: dict[str, Any]
    start: Literal["keep", "shift"]
    rank: int
    alpha: float
    rslora: bool
    seed: int
    anchor: Literal["none", "active", "merged"]
    trainable_parameters: int
    seconds: float
    modules: dict[str, ModuleReport] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(
        default_factory=dict, description="modules that stay without an adapter: name → reason (heads are not listed)"
    )
    tied: tuple[str, ...] = Field(default=(), description="adapted layers whose weight another module uses too")
    checksum: str = Field(description="sha256 of the trained adapter's weights at step 0")

    def summary(self) -> dict[str, float]:
        """The report in a few numbers: totals, extremes, and the mean over modules of every value a method reports."""
        modules = list(self.modules.values())
        numbers = {
            "seconds": self.seconds,
            "trainable_parameters": float(self.trainable_parameters),
        }
        if modules:  # PEFT's own initialisers report nothing per module
            numbers["modules"] = float(len(modules))
            numbers["modules_left_out"] = float(len(self.left_out))
            numbers["rank_min"] = float(min(module.rank for module in modules))
            numbers["rank_max"] = float(max(module.rank for module in modules))
            numbers["relative_norm_max"] = max(module.relative_norm for module in modules)
            numbers["merge_error_max"] = max(module.merge_error for module in modules)
        if self.tied:
            numbers["tied_modules"] = float(len(self.tied))
        for key in sorted({key for module in modules for key in module.values}):
            values = [module.values[key] for module in modules if key in module.values]
            numbers[f"{key}_mean"] = sum(values) / len(values)
        return numbers


def adapter_checksum(peft_model: Any) -> str:
    """sha256 over the trained adapter's tensors (and trained heads), in the order of their names."""
    digest = hashlib.sha256()
    state = get_peft_model_state_dict(peft_model, adapter_name="default", save_embedding_layers=False)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(name.encode() + b"\0")
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
