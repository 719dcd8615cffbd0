"""What an initialisation method is. Each file in this folder defines one `Method`; the registry is in `__init__.py`.

Layout everywhere: `weight: (m, n)`, `A: (r, n)` = PEFT's lora_A, `B: (m, r)` = lora_B, and the adapted layer is
`W x + s·B A x` with the scaling `s = alpha / r` (rsLoRA: `alpha / √r`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hubinit.calibration.statistics import LayerStatistics, Statistic


class MethodOptions(BaseModel):
    """Options of a method; each field states its default and the paper's or released code's value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_a: bool = Field(default=True, description="False freezes A after initialisation (LoRA-FA)")


@dataclass(frozen=True)
class Layer:
    """What a method sees of one target module."""

    name: str
    weight: Tensor  # (m, n) float32 (float64 in tests), PyTorch layout also for Conv1D
    rank: int
    scaling: float  # s
    generator: torch.Generator  # seeded from (seed, module name), on the weight's device
    statistics: LayerStatistics | None = None


@dataclass(frozen=True)
class Factors:
    """Initial factors of one layer, in the weight's dtype, and what was kept (energies, spectrum, residuals)."""

    A: Tensor  # (r, n)
    B: Tensor  # (m, r)
    report: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One initialisation: pure function `layer, options ─► factors`, and what it needs and promises.

    Attributes:
        name: registry name, as in `--methods`.
        title: name as printed in tables and cards.
        source: the paper, with its arXiv id.
        start: `keep`: the adapted layer equals W at step 0 (the residual W − s·BA is frozen, as an anchor adapter, whenever
            s·BA ≠ 0); `shift`: the layer starts at W + s·BA on purpose.
        factors: computes A and B. None for methods whose adapter is not plain LoRA (`peft_config` is given then).
        statistics: which sums the method needs under given options (empty: weight-only).
        samples: calibration examples of the source; None: the project's default.
        options: the option model.
        lora_kwargs: extra fields of PEFT's LoraConfig (e.g. use_dora).
        version: raise it when the mathematics changes, so that old results are not reused.
    """

    name: str
    title: str
    source: str
    start: Literal["keep", "shift"]
    factors: Callable[[Layer, Any], Factors] | None
    statistics: Callable[[Any], frozenset[Statistic]] = lambda options: frozenset()
    samples: int | None = None
    options: type[MethodOptions] = MethodOptions
    lora_kwargs: dict[str, Any] = field(default_factory=dict)
    peft_config: Callable[..., Any] | None = None
    ranks: Callable[[list[Layer], Any], dict[str, int]] | None = None  # EVA's rank redistribution
    version: int = 1
