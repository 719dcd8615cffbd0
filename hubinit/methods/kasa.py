"""KaSA: the weight loses its r smallest singular components, and a trained diagonal sits between B and A (arXiv:2412.06071).

PEFT's adapter is used, and what its truncation changes becomes a frozen anchor beside an untouched base. On small models the
truncation costs much of their quality before training begins (SmolLM2-135M: perplexity 11.7 to 3688 at r = 8), so the step-0
loss belongs beside KaSA's scores.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from hubinit.methods.spec import Method, MethodOptions


class KasaOptions(MethodOptions):
    """The truncation rule, and the two regularisers that training adds to the loss."""

    truncation: Literal["peft", "released"] = Field(
        default="peft",
        description="how many singular components of an m × n weight are kept. peft: min(m, n) − r, so r are dropped. "
        "released: n − r, as the authors' code has it, so nothing is dropped where m ≤ n − r",
    )
    beta: float = Field(default=1e-4, ge=0, description="weight of ‖ΔΣ‖² (eqs. 9–10); PEFT and the GLUE configs 1e-4")
    gamma: float = Field(
        default=1e-3, ge=0, description="weight of ‖BᵀB − I‖ + ‖AAᵀ − I‖ (eq. 11); PEFT and the GLUE configs 1e-3"
    )
    regulariser: Literal["released", "peft"] = Field(
        default="released",
        description="the term added to the loss. released: the mean over the layers, with ‖AᵀA − I‖ and ‖BBᵀ − I‖ in eq. 11, "
        "as the authors' code has it; peft: eq. 11 as it stands, summed over the layers",
    )


def peft_config(*, rank: int, alpha: float, target_modules: Any, options: KasaOptions, rslora: bool = False) -> Any:
    """PEFT's LoraConfig with KasaConfig: A Kaiming-uniform, B zero, the diagonal normal.

    Args:
        rank: r; must be below min(m, n) of every target.
        alpha: LoRA's alpha.
        target_modules: as PEFT takes them; `nn.Linear` only, PEFT's KaSA refuses Conv1D.
        options: the coefficients.
        rslora: scale by alpha/√r.
    """
    from peft import LoraConfig
    from peft.tuners.lora.config import KasaConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rslora,
        target_modules=target_modules,
        init_lora_weights=True,
        kasa_config=KasaConfig(beta=options.beta, gamma=options.gamma),
    )


def count_dropped(options: KasaOptions, m: int, n: int, rank: int) -> int:
    """How many singular components the rule drops from an (m, n) weight: 0 to r of the min(m, n).

    Args:
        options: with the rule.
        m: outputs.
        n: inputs.
        rank: r.
    """
    kept = min(m, n) - rank if options.truncation == "peft" else n - rank
    return max(0, min(m, n) - kept)


def penalty(model: Any, options: KasaOptions) -> Tensor:
    """The regularisers as a term of the loss, for the diagonals d (r,) and the factors A (r, n), B (m, r) of all L layers.

    - released: `(β Σ‖d‖² + γ Σ(‖AᵀA − Iₙ‖ + ‖BBᵀ − Iₘ‖)) / L` over what is trained (`loss_fn` of the released main.py);
    - peft: `β Σ‖d‖² + γ Σ(‖AAᵀ − Iᵣ‖ + ‖BᵀB − Iᵣ‖)`, PEFT's own.

    Args:
        model: a PeftModel with a KaSA adapter.
        options: the coefficients, and which form.
    """
    if options.regulariser == "peft":
        summed: Tensor = model._get_kasa_loss()
        return summed
    parameters = [(name, value.float()) for name, value in model.named_parameters() if value.requires_grad]
    diagonals = [value for name, value in parameters if ".lora_diag." in name]
    factors = [value for name, value in parameters if ".lora_A." in name]
    factors += [value.T for name, value in parameters if ".lora_B." in name]
    scale = torch.stack([diagonal.square().sum() for diagonal in diagonals]).sum()
    shape = torch.stack([_distance_from_orthogonal(factor) for factor in factors]).sum()
    return (options.beta * scale + options.gamma * shape) / len(diagonals)


def _distance_from_orthogonal(factor: Tensor) -> Tensor:
    """`‖FᵀF − Iₙ‖` of F (r, n), r < n, from the r × r matrix FFᵀ: both have the same eigenvalues but for n − r zeros."""
    r, n = factor.shape
    difference = factor @ factor.T - torch.eye(r, device=factor.device)  # (r, r)
    return (difference.square().sum() + (n - r)).sqrt()


METHOD = Method(
    name="kasa",
    title="KaSA",
    source="KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models, arXiv:2412.06071",
    start="shift",  # the truncation changes the base; the update itself starts at zero
    factors=None,
    options=KasaOptions,
    peft_config=peft_config,
    dropped=count_dropped,
    penalty=penalty,
    quantised=False,  # PEFT truncates the weight itself
    version=2,  # 1 trained without the regularisers
)
