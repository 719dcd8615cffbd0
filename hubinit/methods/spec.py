"""What an initialisation method is. Each file in this folder defines one `Method`; the registry is in `__init__.py`.

Layout everywhere: `weight: (m, n)`, `A: (r, n)` = PEFT's lora_A, `B: (m, r)` = lora_B, and the adapted layer is
`W x + s·B A x` with the scaling `s = alpha / r` (rsLoRA: `alpha / √r`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hubinit.errors import InitialisationError
from hubinit.numerics.linalg import effective_rank
from hubinit.numerics.statistics import LayerStatistics, Statistic

Result = TypeVar("Result")


class MethodOptions(BaseModel):
    """Options of a method; each field states its default and the paper's or released code's value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Layer:
    """What a method sees of one target module.

    Raises:
        InitialisationError: the rank lies outside 1…min(m, n), or the weight holds NaN or infinity.
    """

    name: str
    weight: Tensor  # (m, n) float32 (float64 in tests), PyTorch layout also for Conv1D
    rank: int
    scaling: float  # s
    generator: torch.Generator  # seeded from (seed, module name), on the weight's device
    statistics: LayerStatistics | None = None
    shared: dict[str, Any] = field(default_factory=dict)  # see `once`; one dict for the layers that share their input
    population: int | None = None  # length of the training set; None: unknown

    def __post_init__(self) -> None:
        m, n = self.weight.shape
        if not 1 <= self.rank <= min(m, n):
            raise InitialisationError(
                f"Rank {self.rank} does not fit module {self.name}, whose weight is {m} × {n}: "
                f"choose a rank from 1 to {min(m, n)} or leave the module out of the targets."
            )
        if not torch.isfinite(self.weight).all():
            raise InitialisationError(f"The weight of module {self.name} holds NaN or infinity; check the base model.")

    def statistic(self, statistic: Statistic) -> Tensor:
        """The raw sum of a statistic on the weight's device and in its dtype.

        Raises:
            InitialisationError: no calibration was given, it lacks this statistic, its shape is that of another module,
                or it is not finite.
        """
        m, n = self.weight.shape
        if self.statistics is None or statistic not in self.statistics.sums:
            raise InitialisationError(
                f"Module {self.name} has no calibration statistic '{statistic}': "
                "calibrate with this method in `methods`, or pass calibration batches."
            )
        value = self.statistics.sums[statistic].to(self.weight)
        if tuple(value.shape) != _SHAPES[statistic](m, n):
            raise InitialisationError(
                f"The calibration statistic '{statistic}' of module {self.name} has shape {tuple(value.shape)}, "
                f"which does not fit its {m} × {n} weight: the calibration belongs to another model."
            )
        if not torch.isfinite(value).all():
            raise InitialisationError(
                f"The calibration statistic '{statistic}' of module {self.name} holds NaN or infinity; calibrate again."
            )
        return value

    def per_token(self, statistic: Statistic) -> Tensor:
        """The statistic divided by the number of tokens that it counts, e.g. `S_X` (n, n) from INPUT_MOMENT."""
        return self.statistic(statistic) / max(1, self._counts().tokens_of(statistic))

    def per_example(self, statistic: Statistic) -> Tensor:
        """The statistic divided by the number of examples, e.g. `G` (m, n) from GRADIENT."""
        return self.statistic(statistic) / max(1, self._counts().examples)

    def once(self, name: str, compute: Callable[[], Result]) -> Result:
        """`compute()`, or what it gave for a layer that shares this one's input: use it for what follows from the input only.

        Args:
            name: of the result, with everything that it depends on besides the input statistics.
            compute: the computation.
        """
        if name not in self.shared:
            self.shared[name] = compute()
        return cast(Result, self.shared[name])

    def _counts(self) -> LayerStatistics:
        assert self.statistics is not None
        return self.statistics


_SHAPES: dict[Statistic, Callable[[int, int], tuple[int, ...]]] = {
    Statistic.INPUT_SUM: lambda m, n: (n,),
    Statistic.INPUT_MOMENT: lambda m, n: (n, n),
    Statistic.OUTPUT_MOMENT: lambda m, n: (m, m),
    Statistic.OUTPUT_DIAGONAL: lambda m, n: (m,),
    Statistic.MEAN_OUTPUT_MOMENT: lambda m, n: (m, m),
    Statistic.MEAN_OUTPUT_DIAGONAL: lambda m, n: (m,),
    Statistic.GRADIENT: lambda m, n: (m, n),
    Statistic.FISHER_INPUT: lambda m, n: (n,),
    Statistic.FISHER_OUTPUT: lambda m, n: (n,),
}


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
        samples: calibration examples of the source, which each method's file cites; None: the source names no number, and the
            project's default is taken.
        options: the option model.
        lora_kwargs: extra fields of PEFT's LoraConfig (e.g. use_dora).
        peft_config: `peft_config(rank=…, alpha=…, rslora=…, target_modules=…, options=…) -> PeftConfig`.
        dropped: for a `peft_config` whose adapter takes the r smallest singular components from the base's weight (KaSA):
            `dropped(options, m, n, r)`, how many of the r the start is to lose. None: all r, as PEFT does.
        scores: for methods that redistribute ranks (EVA): what each of a module's possible ranks is worth, falling. The best of
            all modules are kept at an unchanged total. Rank 0 leaves a module unadapted; the scaling s of every module stays
            what it was (so alpha follows the rank). None, or an empty list from every module: the same rank everywhere.
        penalty: for methods that add a term to the loss (KaSA): `penalty(model, options)`, a scalar that counts once per
            optimiser step.
        directions: for methods with a second phase of training (LoRA-Dash): `directions(W, A, B, s, options)` chooses, after
            `options.warmup` steps, the U (m, k) and Vᵀ (k, n) whose coefficients are trained from then on.
        anchored: a `keep` method whose s·BA is not zero, so that the frozen weight must lose it (see `start`). This field
            decides, not a norm: orthogonal's s·BA is zero up to rounding and needs no anchor.
        a_parameter: the parameter that an optimiser may freeze (LoRA-FA); None: the method cannot train without A.
        train_b: False where B is frozen by the method itself (MiCA).
        quantised: False where the adapter needs the base's weights themselves, which 4 bits do not hold.
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
    dropped: Callable[[Any, int, int, int], int] | None = None
    scores: Callable[[Layer, Any], list[float]] | None = None
    penalty: Callable[[Any, Any], Tensor] | None = None
    directions: Callable[..., tuple[Tensor, Tensor]] | None = None
    anchored: bool = False
    a_parameter: str | None = "lora_A"
    train_b: bool = True
    quantised: bool = True
    version: int = 1


def finish(layer: Layer, A: Tensor, B: Tensor, report: dict[str, float] | None = None) -> Factors:
    """Factors as every method returns them: checked, contiguous, in the weight's dtype.

    Args:
        layer: the layer they belong to.
        A: (r, n).
        B: (m, r).
        report: what was kept; the effective rank of BA is added where BA ≠ 0.

    Raises:
        InitialisationError: a factor is not finite.
    """
    if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise InitialisationError(
            f"The initial factors of module {layer.name} are not finite: its weight or calibration is out of range."
        )
    A = A.to(layer.weight.dtype).contiguous()  # (r, n)
    B = B.to(layer.weight.dtype).contiguous()  # (m, r)
    rank = effective_rank(A, B)
    return Factors(A=A, B=B, report={**(report or {}), **({"effective_rank": rank} if rank else {})})
