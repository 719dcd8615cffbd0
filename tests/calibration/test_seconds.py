"""What a calibration charges for some statistics, in a world where only arithmetic takes time."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hubinit.calibration import Calibration, Statistic, calibrate
from hubinit.calibration.clock import Clock
from hubinit.calibration.memory import LayerShape, plan_memory
from hubinit.calibration.result import MANIFEST
from hubinit.calibration.taps import Total
from hubinit.models.layers import is_linear, shape_of
from tests import cases
from tests.calibration.test_calibrate import EVERY, FILET

CORDA = frozenset({Statistic.INPUT_MOMENT})
LORA_GA = frozenset({Statistic.GRADIENT})
LORA_DA = frozenset({Statistic.INPUT_MOMENT, Statistic.GRADIENT, Statistic.MEAN_OUTPUT_DIAGONAL})
METHODS = (CORDA, LORA_GA, LORA_DA, FILET)
UNION = frozenset[Statistic]().union(*METHODS)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A model whose layers, and the sums over them, take one nanosecond per multiplication; nothing else takes time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def spend(multiplications: float) -> None:
        now[0] += multiplications * 1e-9

    for name in ("add_gram", "add_product"):
        plain = getattr(Total, name)

        def timed(self: Total, *operands: Tensor, plain: Any = plain) -> None:
            spend(len(operands[0]) * self.sum.numel())
            plain(self, *operands)

        monkeypatch.setattr(Total, name, timed)
    model = cases.build("llama")

    def run(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        m, n = shape_of(module)
        work = output.numel() // m * m * n
        spend(work)
        if output.requires_grad:
            output.register_hook(lambda gradient: spend(work))

    for module in model.modules():
        if is_linear(module):
            module.register_forward_hook(run)
    return model


def run(model: nn.Module, statistics: Iterable[Statistic], **options: Any) -> Calibration:
    return calibrate(model, cases.batches("llama", examples=20, batch_size=5), statistics=statistics, **options)


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
@pytest.mark.parametrize("statistics", METHODS)
def test_what_a_method_costs_does_not_depend_on_the_others(
    model: nn.Module, statistics: frozenset[Statistic], fisher: str
) -> None:
    together, alone = run(model, UNION, fisher=fisher), run(model, statistics, fisher=fisher)
    assert together.seconds_for(statistics) == pytest.approx(
        alone.seconds, rel=0.02
    )  # the head sees one position or all
    assert together.seconds_for(statistics) < 0.9 * together.seconds
    assert alone.seconds_for(statistics) == pytest.approx(alone.seconds)


@pytest.mark.parametrize("options", [{}, {"fisher": "sampled"}, {"memory_budget": 30_000}])
def test_all_together_cost_what_the_passes_took(model: nn.Module, options: dict[str, Any]) -> None:
    found = run(model, EVERY, **options)
    assert found.seconds > 0
    assert found.seconds_for(EVERY) == pytest.approx(found.seconds)
    assert found.seconds_for(()) == 0  # a method that looks at weights only


def test_inputs_need_no_backward_pass(model: nn.Module) -> None:
    found = run(model, UNION)
    forward = found.seconds_for({Statistic.INPUT_MOMENT})
    backward = found.seconds_for({Statistic.GRADIENT})
    assert backward > 1.5 * forward
    assert (
        found.seconds_for({Statistic.INPUT_MOMENT, Statistic.GRADIENT}) < forward + 0.8 * backward
    )  # one forward pass


def test_more_passes_for_lack_of_memory_are_shared_by_size(model: nn.Module) -> None:
    found = run(model, LORA_DA, memory_budget=30_000)
    single = run(model, LORA_DA)
    assert found.seconds > 2.5 * single.seconds
    assert found.seconds_for(CORDA) < 0.5 * found.seconds
    assert found.seconds_for(CORDA) + found.seconds_for(LORA_GA) < 1.2 * found.seconds


def test_a_completed_calibration_counts_the_bare_pass_once(model: nn.Module, tmp_path: Path) -> None:
    first, second = run(model, LORA_GA), run(model, UNION - LORA_GA)
    merged = first.merge(second)
    merged.save(tmp_path)
    for found in (merged, Calibration.load(tmp_path)):
        assert found.seconds == pytest.approx(first.seconds + second.seconds)
        for statistics in METHODS:
            assert found.seconds_for(statistics) == pytest.approx(run(model, statistics).seconds, rel=0.02)
    assert len(json.loads((tmp_path / MANIFEST).read_text())["work"]) == len(merged.work)


def test_added_calibrations_add_up(model: nn.Module) -> None:
    data = cases.batches("llama", examples=20, batch_size=5)
    whole = calibrate(model, data, statistics=LORA_DA)
    parts = calibrate(model, data[:1], statistics=UNION) + calibrate(model, data[1:], statistics=LORA_DA)
    assert parts.seconds_for(LORA_DA) == pytest.approx(
        whole.seconds_for(LORA_DA), rel=0.05
    )  # wiring is found out twice


def test_a_guest_of_a_larger_sum_needs_its_own_size() -> None:
    """FILet alone keeps the (m, m) moment of `down_proj`; beside CorDA it uses the (n, n) one that is there anyway."""
    shapes = [LayerShape("up", 48, 32, "up"), LayerShape("down", 32, 48, "down")]
    plan = plan_memory(shapes, {Statistic.INPUT_MOMENT, Statistic.FISHER_INPUT})
    parts = plan.works["down", Statistic.INPUT_MOMENT]
    mine = {Statistic.FISHER_INPUT}
    assert sum(share for work, share in parts.items() if work.needed_for(frozenset(mine))) == (32 / 48) ** 2
    assert sum(share for work, share in parts.items() if work.needed_for(CORDA)) == 1
    assert sum(share for work, share in parts.items() if work.needed_for(CORDA | mine)) == 1
    same = plan.works["up", Statistic.INPUT_MOMENT]  # FILet alone keeps this one too
    assert [work.needed_by for work in same] == [CORDA | mine]


def test_a_gpu_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read before `settle`, and what happens inside a part is taken off it."""
    recorded: list[object] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.reached = False

        def record(self, stream: object) -> None:
            self.at = float(2 ** len(recorded))  # milliseconds
            recorded.append(self)

        def synchronize(self) -> None:
            self.reached = True

        def elapsed_time(self, end: "Event") -> float:
            assert end.reached
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock, gpu = Clock(), torch.device("cuda")
    with clock.measure(("all", "outer"), gpu), clock.measure(("layer", "sum"), gpu, ("all", "outer")):
        pass
    assert not clock.seconds
    clock.settle()
    clock.settle()
    assert clock.seconds == {("layer", "sum"): pytest.approx(0.002), ("all", "outer"): pytest.approx(0.007 - 0.002)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_parts_are_the_whole() -> None:
    found = run(cases.build("llama").cuda(), EVERY)
    assert found.seconds_for(EVERY) == pytest.approx(found.seconds)
    assert 0 < found.seconds_for(CORDA) < found.seconds_for(LORA_DA) < found.seconds
