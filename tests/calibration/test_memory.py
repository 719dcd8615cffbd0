"""The memory plan: arithmetic on the shapes of real models, and real runs that hold to it."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.calibration import MemoryPlan, Statistic, calibrate, plan_memory
from hubinit.calibration.memory import LayerShape, Moment, in_units
from hubinit.calibration.taps import Total
from hubinit.errors import CalibrationError
from tests import cases
from tests.calibration.test_calibrate import EVERY, FILET, assert_same

GiB = 1 << 30
LORA_DA = {Statistic.INPUT_MOMENT, Statistic.GRADIENT, Statistic.MEAN_OUTPUT_DIAGONAL}


def llama(hidden: int, mlp: int, kv: int, layers: int) -> list[LayerShape]:
    """The linear layers of a Llama model."""
    shapes = []
    for index in range(layers):
        q, gate = f"{index}.q", f"{index}.gate"
        shapes += [
            LayerShape(q, hidden, hidden, q),
            LayerShape(f"{index}.k", kv, hidden, q),
            LayerShape(f"{index}.v", kv, hidden, q),
            LayerShape(f"{index}.o", hidden, hidden, f"{index}.o"),
            LayerShape(gate, mlp, hidden, gate),
            LayerShape(f"{index}.up", mlp, hidden, gate),
            LayerShape(f"{index}.down", hidden, mlp, f"{index}.down"),
        ]
    return shapes


LLAMA_8B = llama(4096, 14336, 1024, 32)


def check(plan: MemoryPlan, budget: int, host_budget: int = 0) -> None:
    """The budget holds in every pass, and every statistic has a source."""
    assert all(plan.device_bytes(turn) <= budget for turn in range(plan.passes))
    assert plan.device_bytes(0) + plan.scratch <= budget
    assert plan.host_bytes <= host_budget
    assert set(plan.sources.values()) == plan.accumulators.keys()


def test_lora_da_for_8b_on_24_gb() -> None:
    """16 GB of weights leave 8; the accumulators of all layers take 59 GiB, so they go to the host, or to ten passes."""
    total = plan_memory(LLAMA_8B, LORA_DA).device_bytes()
    assert 55 * GiB < total < 62 * GiB
    offloaded = plan_memory(LLAMA_8B, LORA_DA, 6 * GiB, host_budget=64 * GiB)
    check(offloaded, 6 * GiB, 64 * GiB)
    assert offloaded.passes == 1
    assert offloaded.host_bytes + offloaded.device_bytes() == total
    split = plan_memory(LLAMA_8B, LORA_DA, 6 * GiB)
    check(split, 6 * GiB)
    assert split.passes == 10  # no more than the total divided by the budget needs
    assert split.host_bytes == 0
    both = plan_memory(LLAMA_8B, LORA_DA, 6 * GiB, host_budget=16 * GiB)
    check(both, 6 * GiB, 16 * GiB)
    assert 1 < both.passes < 10


def test_filet_for_8b_needs_little() -> None:
    """Without a limit moments save time; with one, a few megabytes are enough."""
    free = plan_memory(LLAMA_8B, FILET)
    assert {kind for _, kind in free.accumulators} == {
        Statistic.INPUT_MOMENT,
        Statistic.OUTPUT_MOMENT,
        Moment.LINEAR_OUTPUT_MOMENT,
        Moment.INPUT_GRADIENT_MOMENT,
    }
    tight = plan_memory(LLAMA_8B, FILET, 16 << 20)
    check(tight, 16 << 20)
    assert tight.passes == 1
    assert all(len(item.shape) == 1 for item in tight.accumulators.values())
    assert tight.device_bytes() == sum(2 * 4 * shape.n for shape in LLAMA_8B)  # O(n) per layer
    middle = plan_memory(LLAMA_8B, FILET, 4 * GiB)
    check(middle, 4 * GiB)
    assert tight.device_bytes() < middle.device_bytes() <= 4 * GiB


def test_no_moment_is_larger_than_the_smaller_side_and_shared_ones_count_once() -> None:
    free = plan_memory(LLAMA_8B, FILET)
    assert max(max(item.shape) for item in free.accumulators.values()) == 4096
    assert ("0.k", Statistic.FISHER_INPUT) in free.sources
    assert free.sources["0.k", Statistic.FISHER_INPUT] == ("0.q", Statistic.INPUT_MOMENT)
    assert free.sources["0.down", Statistic.FISHER_INPUT] == ("0.down", Moment.LINEAR_OUTPUT_MOMENT)


@settings(max_examples=80, deadline=None)
@given(
    statistics=st.sets(st.sampled_from(sorted(EVERY)), min_size=1),
    budget=st.integers(1, 400_000),
    host=st.sampled_from([0, 50_000, 1 << 30]),
    hidden=st.integers(4, 40),
    mlp=st.integers(4, 60),
)
def test_budget_is_never_exceeded(statistics: set[Statistic], budget: int, host: int, hidden: int, mlp: int) -> None:
    shapes = llama(hidden, mlp, max(1, hidden // 4), 3)
    try:
        plan = plan_memory(shapes, statistics, budget, host_budget=host)
    except CalibrationError as error:
        assert "memory_budget" in str(error)  # noqa: PT017
        return
    check(plan, budget, host)
    assert {statistic for _, statistic in plan.sources} == statistics
    assert plan.passes <= 1 + len(plan.accumulators)


def test_impossible_budget_says_what_would_do() -> None:
    with pytest.raises(CalibrationError, match=r"0.down alone takes 784.0 MiB.*raise memory_budget"):
        plan_memory(LLAMA_8B, LORA_DA, 500 << 20)
    with pytest.raises(CalibrationError, match="memory_budget"):
        plan_memory(LLAMA_8B, FILET, 1000)


def test_table() -> None:
    text = str(plan_memory(LLAMA_8B, LORA_DA, 6 * GiB, host_budget=64 * GiB))
    assert "gradient" in text
    assert "host" in text
    assert "1 pass;" in text
    assert in_units(1536) == "1.5 KiB"


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of accumulators that are alive, as each one is made."""
    import weakref

    alive = [0]
    peaks: list[int] = []
    original = Total.__init__

    def counting(self: Total, *args: object) -> None:
        original(self, *args)
        size = self.sum.nbytes
        alive[0] += size
        weakref.finalize(self, lambda: alive.__setitem__(0, alive[0] - size))
        peaks.append(alive[0])

    monkeypatch.setattr(Total, "__init__", counting)
    return peaks


@pytest.mark.parametrize("statistics", [EVERY, LORA_DA])
def test_a_real_run_in_several_passes_holds_the_budget_and_changes_nothing(
    statistics: frozenset[Statistic], allocated: list[int]
) -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    free = calibrate(model, data, statistics=statistics)
    whole = max(allocated)
    allocated.clear()
    plans: list[MemoryPlan] = []
    budget = 30_000
    assert whole > 3 * budget
    tight = calibrate(model, data, statistics=statistics, memory_budget=budget, on_plan=plans.append)
    assert plans[0].passes > 2
    assert 0 < max(allocated) <= budget
    assert_same(tight, free, 1e-5)
    attention = [tight.layers[f"model.layers.0.self_attn.{name}_proj"] for name in "qkv"]
    assert len({layer.sums[Statistic.INPUT_MOMENT].data_ptr() for layer in attention}) == 1


def test_several_passes_need_data_that_can_be_read_again() -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    with pytest.raises(CalibrationError, match="pass a list"):
        calibrate(model, iter(data), statistics=LORA_DA, memory_budget=60_000)
    assert calibrate(model, iter(data), statistics=LORA_DA).examples == 6
    fewer = iter([data, data, data[:1]])

    class Shrinking:
        def __iter__(self) -> Iterator[cases.Batch]:
            return iter(next(fewer))

    with pytest.raises(CalibrationError, match="differ between passes"):
        calibrate(model, Shrinking(), statistics=LORA_DA, memory_budget=60_000)


@pytest.mark.gpu
def test_offloaded_sums_are_the_same() -> None:
    model, data = cases.build("llama").cuda(), cases.batches("llama")
    free = calibrate(model, data, statistics=EVERY)
    plans: list[MemoryPlan] = []
    tight = calibrate(model, data, statistics=EVERY, memory_budget=60_000, on_plan=plans.append)
    assert plans[0].host_bytes > 0
    for name, layer in free.layers.items():
        for kind, value in layer.sums.items():
            torch.testing.assert_close(tight.layers[name].sums[kind].cpu(), value.cpu(), rtol=1e-4, atol=1e-4)
