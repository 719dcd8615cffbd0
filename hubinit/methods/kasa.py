"""KaSA: the weight loses its r smallest singular components, and a trained diagonal sits between B and A (arXiv:2412.06071).

PEFT's adapter is used, and what its truncation changes becomes a frozen anchor beside an untouched base. On small models the
truncation costs much of their quality before training begins (SmolLM2-135M: perplexity 11.7 to 3688 at r = 8), so the step-0
loss belongs beside KaSA's scores. The two regularisers belong to training and are still missing: `--methods all` leaves the
method out.
"""

from typing import Any, Literal

from pydantic import Field

from hubinit.methods.spec import Method, MethodOptions


class KasaOptions(MethodOptions):
    """The truncation rule, and the coefficients of the two regularisers that training is to add to the loss."""

    truncation: Literal["peft", "released"] = Field(
        default="peft",
        description="how many singular components of an m × n weight are kept. peft: min(m, n) − r, so r are dropped. "
        "released: n − r, as the authors' code has it, so nothing is dropped where m ≤ n − r",
    )
    beta: float = Field(default=1e-4, ge=0, description="weight of ‖ΔΣ‖² (eqs. 9–10); PEFT and the GLUE configs 1e-4")
    gamma: float = Field(
        default=1e-3, ge=0, description="weight of ‖BᵀB − I‖ + ‖AAᵀ − I‖ (eq. 11); PEFT and the GLUE configs 1e-3"
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


METHOD = Method(
    name="kasa",
    title="KaSA",
    source="KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models, arXiv:2412.06071",
    start="shift",  # the truncation changes the base; the update itself starts at zero
    factors=None,
    options=KasaOptions,
    peft_config=peft_config,
    dropped=count_dropped,
    complete=False,
)
