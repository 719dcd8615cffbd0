"""NEAT: a nonlinear update `ΔWᵀ = s·σ(Wᵀ Aᵀ) Bᵀ`, B zero (Zhong et al., arXiv:2410.01870, renamed PEANuT by its authors)."""

from typing import Any, Literal

from pydantic import Field

from hubinit.methods.spec import Method, MethodOptions


class NeatOptions(MethodOptions):
    """Options of NEAT."""

    depth: int = Field(default=0, ge=0, description="hidden layers on each side; 0 is NEAT, more are PEANuT's. Paper 0")
    activation: Literal["relu", "sigmoid", "tanh", "gelu", "silu"] = Field(
        default="relu", description="σ; the paper has relu"
    )


def peft_config(*, rank: int, alpha: float, target_modules: Any, options: NeatOptions, rslora: bool = False) -> Any:
    """PEFT's PeanutConfig with LoRA's scaling; A (r, m) Kaiming-uniform, B (m, r) zero.

    Args:
        rank: r.
        alpha: the update is scaled by alpha/r (rsLoRA: alpha/√r).
        target_modules: as PEFT takes them; `nn.Linear` only.
        options: depth and activation.
        rslora: scale by alpha/√r.
    """
    from peft import PeanutConfig

    return PeanutConfig(
        r=rank,
        depth=options.depth,
        act_fn=options.activation,
        scaling=alpha / (rank**0.5 if rslora else rank),
        target_modules=target_modules,
    )


METHOD = Method(
    name="neat",
    title="NEAT",
    source="NEAT: Nonlinear Parameter-efficient Adaptation of Pre-trained Models, arXiv:2410.01870",
    start="keep",
    factors=None,
    options=NeatOptions,
    peft_config=peft_config,
    a_parameter="peanut_A",
    quantised=False,  # the update is a function of the weight
)
