"""The factors of all layers. Layers that share their input are solved together, so that they share what follows from it."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hubinit.adapters.report import ModuleReport
from hubinit.calibration.passes import device_of
from hubinit.errors import CalibrationError, InitialisationError
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions
from hubinit.models.layers import is_quantised, shape_of, weight_of
from hubinit.numerics.statistics import LayerStatistics, Statistic
from hubinit.numerics.threads import solvers

if TYPE_CHECKING:
    from hubinit.calibration import Calibration

Solved = tuple[Factors, ModuleReport]


@dataclass(frozen=True)
class Target:
    """One layer to be solved; `shared` is one dict for all layers that have its input."""

    name: str
    module: nn.Module
    statistics: LayerStatistics | None
    shared: dict[str, Any]
    population: int | None

    def layer(self, weight: Tensor, rank: int, scaling: float, seed: int) -> Layer:
        """What the method sees."""
        generator = generator_for(seed, self.name, weight.device)
        return Layer(self.name, weight, rank, scaling, generator, self.statistics, self.shared, self.population)


def solve(
    method: Method,
    parsed: MethodOptions,
    layers: Mapping[str, nn.Module],
    *,
    rank: int,
    scaling: float,
    seed: int,
    calibration: "Calibration | None",
    population: int | None = None,
) -> dict[str, Solved]:
    """The initial factors of every layer and what there is to report of them, in the order of the layers.

    Args:
        method: with `factors`.
        parsed: its options.
        layers: the targets.
        rank: r of each, before a redistribution; layers whose rank becomes 0 are left out.
        scaling: s.
        seed: of everything random.
        calibration: what a data-aware method needs.
        population: length of the training set; None: unknown.

    Raises:
        InitialisationError: the method cannot initialise a layer.
    """
    groups = _groups(layers, calibration, population)
    ranks = dict.fromkeys(layers, rank)

    def score(group: list[Target]) -> dict[str, list[float]]:
        assert method.scores is not None
        return {t.name: method.scores(t.layer(_zero(t.module), rank, scaling, seed), parsed) for t in group}

    def solve_group(group: list[Target]) -> dict[str, Solved]:
        done = {}
        for target in group:
            if ranks[target.name] == 0:
                continue
            begun = time.perf_counter()
            layer = target.layer(weight_of(target.module, target.name), ranks[target.name], scaling, seed)
            factors = _factors(method, layer, parsed)
            done[target.name] = factors, _module_report(target.module, layer, factors, time.perf_counter() - begun)
        group[0].shared.clear()
        return done

    largest = max(max(shape_of(module)) for module in layers.values())
    with solvers(largest, device_of(next(iter(layers.values())))) as map_over:
        if method.scores is not None:
            scores = {name: values for part in map_over(score, groups) for name, values in part.items()}
            ranks = redistribute({name: scores[name] for name in layers}, rank)
        found = {name: made for part in map_over(solve_group, groups) for name, made in part.items()}
    return {name: found[name] for name in layers if name in found}


def redistribute(scores: Mapping[str, list[float]], rank: int) -> dict[str, int]:
    """Ranks that keep the components of highest score, at the total that a uniform rank has. Ties go to the earlier module.

    Args:
        scores: of each module's possible components, falling; all empty: the rank stays uniform.
        rank: the uniform one.
    """
    if not any(scores.values()):
        return dict.fromkeys(scores, rank)
    names = list(scores)
    order = sorted((-score, position) for position, name in enumerate(names) for score in scores[name])
    kept = Counter(position for _, position in order[: rank * len(names)])
    return {name: kept[position] for position, name in enumerate(names)}


def generator_for(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator seeded by blake2b of (seed, module name): results do not depend on the order of the modules."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(
        int.from_bytes(digest, "little") >> 1
    )  # 63 bits: what every device takes


def _groups(
    layers: Mapping[str, nn.Module], calibration: "Calibration | None", population: int | None
) -> list[list[Target]]:
    """The targets, those that share their input statistics (and a device) together."""
    groups: dict[Any, list[Target]] = {}
    for name, module in layers.items():
        statistics = calibration.layers.get(name) if calibration is not None else None
        if calibration is not None and statistics is None:
            raise CalibrationError(
                f"the calibration has no statistics of {name}: calibrate with the same target_modules, "
                "or leave it out if the data never reach it."
            )
        moment = statistics.sums.get(Statistic.INPUT_MOMENT) if statistics is not None else None
        group = groups.setdefault(name if moment is None else (id(moment), device_of(module)), [])
        group.append(Target(name, module, statistics, group[0].shared if group else {}, population))
    return list(groups.values())


def _zero(layer: nn.Module) -> Tensor:
    """Scores follow from the statistics: no weight is read, so a zero of its shape stands for it (one number in memory)."""
    return torch.zeros((), device=device_of(layer)).expand(shape_of(layer))


def _factors(method: Method, layer: Layer, parsed: MethodOptions) -> Factors:
    assert method.factors is not None
    factors = method.factors(layer, parsed)
    m, n = layer.weight.shape
    expected = ((layer.rank, n), (m, layer.rank))
    if (tuple(factors.A.shape), tuple(factors.B.shape)) != expected:
        raise InitialisationError(
            f"{method.name} gave factors {tuple(factors.A.shape)}, {tuple(factors.B.shape)} for {layer.name}, "
            f"expected {expected[0]}, {expected[1]}."
        )
    if not (factors.A.isfinite().all() and factors.B.isfinite().all()):
        raise InitialisationError(f"{method.name} gave factors that are not finite for {layer.name}.")
    return factors


def _module_report(module: Any, layer: Layer, factors: Factors, seconds: float) -> ModuleReport:
    norm = float(layer.weight.norm())
    relative = merge_error = 0.0
    if factors.B.any() and factors.A.any():
        update = layer.scaling * (factors.B @ factors.A)  # (m, n)
        # A weight of zeros has no scale: machine precision stands for it, so that the report stays finite.
        relative = float(update.norm()) / (norm or torch.finfo(torch.float32).eps)
        residual = layer.weight - update  # (m, n)
        stored = module.weight.dtype if not is_quantised(module) else torch.bfloat16
        merge_error = float((residual.to(stored).to(residual.dtype) - residual).norm()) / norm if norm else 0.0
    return ModuleReport(
        shape=(int(layer.weight.shape[0]), int(layer.weight.shape[1])),
        rank=layer.rank,
        scaling=layer.scaling,
        relative_norm=relative,
        merge_error=merge_error,
        seconds=seconds,
        values=factors.report,
    )
