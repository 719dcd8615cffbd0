"""How long the planned runs will take: from what earlier runs of the same model took here, else from counted FLOPs.

An estimate to decide by, not a promise: the FLOP count assumes half-filled sequences and a fixed share of the matmul speed. A
method that has not run here yet is taken to cost what another one of the same model did.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from hubinit.errors import HubError
from hubinit.models.dtype import choose_dtype, default_device
from hubinit.models.shapes import outline
from hubinit.records import ResultStore
from hubinit.runs.costs import hardware
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import Stored, StoredIndex, Work, name_hardware, trained_examples
from hubinit.specs import FULL, NO_ADAPTER, ModelSpec

EFFICIENCY = 0.35  # of the probed matmul speed that training and scoring reach
EVALUATED = 1000  # test examples of a task without a limit
SCORED_TOKENS = 400  # tokens of one scored example, all its answers together


@dataclass(frozen=True)
class Estimate:
    """How long each planned run takes, and what that is known from.

    Attributes:
        seconds: of each run; 0 for cached ones, None where even the model's size is unknown.
        measured: runs that are estimated from earlier ones.
        counted: runs that are estimated from FLOPs.
        speed: FLOP/s of a matrix product here; None where nothing was counted.
    """

    seconds: list[float | None]
    measured: int
    counted: int
    speed: float | None

    def __str__(self) -> str:
        """Where the numbers come from, in words."""
        words = [f"{self.measured} from earlier runs on this hardware"] if self.measured else []
        if self.counted and self.speed:
            rate = f"{EFFICIENCY:.0%} of the {self.speed / 1e12:.3g} TFLOP/s of a matrix product here"
            words.append(f"{self.counted} from FLOPs at {rate}")
        if unknown := sum(one is None for one in self.seconds):
            words.append(f"{unknown} unknown")
        return ", ".join(words)


def estimate(planned: Sequence[PlannedRun], store: ResultStore) -> Estimate:
    """Estimates the seconds of each planned run."""
    here, index = name_hardware(hardware()), StoredIndex(store)
    history = latest(one for one in index.all() if one.work.hardware == here)
    index.save()
    speed: float | None = None
    seconds: list[float | None] = []
    measured = counted = 0
    for run in planned:
        if run.state == "cached":
            seconds.append(0.0)
            continue
        known = from_history(run, history)
        measured += known is not None
        if known is None and (size := parameters(run.spec.model)) is not None:
            speed = speed or matmul_speed()
            known = flops(run, size) / (EFFICIENCY * speed)
            counted += 1
        seconds.append(known)
    return Estimate(seconds, measured, counted, speed)


def latest(stored: Iterable[Stored]) -> dict[tuple[str, str], Work]:
    """The newest complete run of each model and method; of a model's adapters, also the newest of any, as method ""."""
    complete = [one.work for one in sorted(stored, key=lambda one: one.created) if one.status == "ok"]
    found = {(work.model, ""): work for work in complete if work.method not in NO_ADAPTER}
    return found | {(work.model, work.method): work for work in complete}


def from_history(run: PlannedRun, history: Mapping[tuple[str, str], Work]) -> float | None:
    """What the same method and model, else another adapter of it, took per trained and scored example, for what is planned."""
    model, method = run.spec.model.id, run.spec.method.name
    last = history.get((model, method)) or (history.get((model, "")) if method not in NO_ADAPTER else None)
    if last is None:
        return None
    once = ("load", "calibrate", "initialise") if run.state == "run" else ("load",)  # before the first step or answer
    seconds = sum(last.seconds.get(stage, 0.0) for stage in once)
    if run.state == "run":
        seconds += last.seconds.get("train", 0.0) * trained_examples(run.spec) / max(last.trained, 1)
    if last.scored:
        per_example = last.seconds.get("evaluate", 0.0) / last.scored
        seconds += per_example * sum(e.limit or EVALUATED for e in run.missing)
    return seconds


def flops(run: PlannedRun, size: int) -> float:
    """Forward 2 and activation backward 2 per parameter and token, and 2 more for weights that get a gradient themselves."""
    total = sum(e.limit or EVALUATED for e in run.missing) * SCORED_TOKENS * 2.0 * size
    if run.state == "run" and run.spec.recipe is not None:
        tokens = run.spec.recipe.max_length / 2
        total += (6.0 if run.spec.method.name == FULL else 4.0) * size * tokens * trained_examples(run.spec)
        if run.spec.calibration is not None:
            total += 8.0 * size * run.spec.calibration.samples * run.spec.calibration.max_length / 2
    return total


@cache
def parameters(model: ModelSpec) -> int | None:
    """Parameters of a model, by its shapes; None where they cannot be had."""
    try:
        return sum(parameter.numel() for parameter in outline(model)[0].parameters())
    except HubError:
        return None


def matmul_speed() -> float:
    """FLOP/s of a matrix product on this device, in the type that is fast on it, measured for a moment."""
    device = default_device()
    dtype = getattr(
        torch, choose_dtype(ModelSpec(id="any"))
    )  # bfloat16 where it is fast: elsewhere one product takes seconds
    a = torch.randn(2048, 2048, device=device, dtype=dtype)  # (k, k)
    (a @ a).sum().item()  # warm-up
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < 0.3:
        (a @ a).sum().item()
        products += 1
    return products * 2 * 2048**3 / (time.perf_counter() - start)
