"""From the accumulators of a pass to the statistics that they give."""

from collections.abc import Mapping

from torch import Tensor, nn

from hubinit.calibration.clock import Work
from hubinit.calibration.fisher_energy import Candidates, divide
from hubinit.calibration.memory import Key, Kind, MemoryPlan, Moment
from hubinit.calibration.taps import Taps
from hubinit.models.layers import device_of, is_conv1d, is_quantised, weight_of
from hubinit.numerics.products import gram
from hubinit.numerics.statistics import Statistic


def finish_statistics(
    layers: Mapping[str, nn.Module], plan: MemoryPlan, wanted: frozenset[Statistic], taps: Taps
) -> dict[tuple[str, Statistic], Tensor]:
    """Statistics from the accumulators of this turn, layer by layer; a moment is dropped after its last use."""
    totals: dict[Key, Tensor] = {
        (name, kind): total.finish() for name, tap in taps.taps.items() for kind, total in tap.totals.items()
    }
    for tap in taps.taps.values():
        tap.totals.clear()
    sources = {use: key for use, key in plan.sources.items() if key in totals}
    last = {key: use for use, key in sources.items()}
    finished: dict[tuple[str, Statistic], Tensor] = {}
    owner, candidates = "", None
    filet = frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})
    for (name, statistic), key in sources.items():
        total = totals[key]
        if statistic in (Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT):
            device = device_of(layers[name])
            if name != owner or candidates is None:
                with taps.clock.measure(Work(filet & wanted), device):
                    owner, candidates = name, _candidates(layers[name], name)
            with taps.clock.measure(Work(frozenset({statistic})), device):
                total = _energies(candidates, statistic, key[1], total.to(candidates.weight.device))
        elif key[1] != statistic:
            total = total.diagonal().clone()  # OUTPUT_DIAGONAL of OUTPUT_MOMENT
        finished[name, statistic] = total
        if last[key] == (name, statistic):
            del totals[key]
    return finished


def _candidates(module: nn.Module, name: str) -> Candidates:
    """FILet's candidates of a layer; the Gram matrix of a bfloat16 weight is exact and faster from the weight itself."""
    weight = weight_of(module, name)
    stored = module.weight
    if is_quantised(module) or not isinstance(stored, Tensor):
        return Candidates.of(weight)
    stored = stored.detach()
    stored = stored.T if is_conv1d(module) else stored  # (m, n)
    return Candidates.of(weight, gram(stored if len(weight) >= weight.shape[1] else stored.T))


def _energies(candidates: Candidates, statistic: Statistic, kind: Kind, total: Tensor) -> Tensor:
    """FILet's sums (n,) from what was accumulated for them."""
    match kind:
        case Statistic.FISHER_INPUT:
            return divide(total, candidates.v_squares)
        case Statistic.FISHER_OUTPUT:
            return divide(total, candidates.uv_squares)
        case Statistic.INPUT_MOMENT:
            return candidates.input_energies(input_moment=total)
        case Moment.LINEAR_OUTPUT_MOMENT:
            return candidates.input_energies(output_moment=total)
        case Statistic.OUTPUT_MOMENT:
            return candidates.output_energies(output_moment=total)
        case Moment.INPUT_GRADIENT_MOMENT:
            return candidates.output_energies(input_gradient_moment=total)
    raise AssertionError(f"{statistic} does not follow from {kind}")
