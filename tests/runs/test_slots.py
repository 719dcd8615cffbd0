"""Sweeps over several slots: played by slots that act out what their jobs say, without a process."""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from hubinit.errors import HubinitError
from hubinit.records import Provenance, ResultStore, RunResult, Score
from hubinit.runs import line as lines
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.executors.slots import SlotExecutor
from hubinit.runs.job import Busy, Died, Event, Finished, Job, Progress, Started, find_done
from hubinit.runs.lease import leased
from hubinit.runs.line import Line
from hubinit.runs.plan import PlannedRun
from hubinit.runs.sweep import sweep
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, RunSpec


class Actor:
    """A slot that does what it is told, and remembers what it was asked."""

    def __init__(self, act: Callable[[Job], Iterator[Event]], name: str = "here") -> None:
        self.act, self.name = act, name
        self.asked: list[RunSpec] = []
        self.ended: list[str] = []

    def do(self, job: Job) -> Iterator[Event]:
        self.asked.append(job.spec)
        yield from self.act(job)

    def stop(self) -> None:
        self.ended.append("stop")

    def kill(self) -> None:
        self.ended.append("kill")

    def close(self) -> None:
        self.ended.append("close")


def spec(seed: int = 0, model: str = "org/one", calibrated: bool = False) -> RunSpec:
    return RunSpec(
        model=ModelSpec(id=model),
        method=MethodSpec(name="filet" if calibrated else "lora"),
        rank=2,
        alpha=4,
        seed=seed,
        data=DataSpec(tasks=("boolq",)),
        calibration=CalibrationSpec(samples=8) if calibrated else None,
    )


def planned(*specs: RunSpec) -> list[PlannedRun]:
    return [PlannedRun(one, "boolq", ()) for one in specs]


def result(one: RunSpec, status: str = "ok", created: str = "now", **fields) -> RunResult:
    made = Provenance(versions={}, hardware={}, command="x", created=created)
    return RunResult(key=one.key, spec=one, status=status, provenance=made, **fields)


def end(job: Job, status: str = "ok", reason: str | None = None) -> Finished:
    stored = ResultStore(job.store).write(result(job.spec, status, created=str(time.monotonic_ns()), reason=reason))
    return Finished(key=stored.key, status=stored.status, reason=stored.reason)


def succeed(job: Job) -> Iterator[Event]:
    yield Progress(key=job.spec.key, stage="train")
    yield end(job)


def test_each_run_is_done_once_and_a_slot_stays_with_its_base(tmp_path: Path) -> None:
    def slowly(job: Job) -> Iterator[Event]:
        time.sleep(0.005)
        yield from succeed(job)

    slots = [Actor(slowly, "one"), Actor(slowly, "two")]
    specs = [spec(seed, f"org/{seed % 2}") for seed in range(20)]
    events: list[Event] = []
    results = sweep(planned(*specs), ResultStore(tmp_path), executor=SlotExecutor(slots), on_event=events.append)
    assert [r.key for r in results] == [one.key for one in specs]
    assert sorted(s.key for slot in slots for s in slot.asked) == sorted(one.key for one in specs)
    for slot in slots:
        names = [one.model.id for one in slot.asked]
        assert sum(a != b for a, b in pairwise(names)) <= 1
    assert {event.place for event in events if isinstance(event, Started)} == {"one", "two"}
    for key in (one.key for one in specs):
        assert [event.type for event in events if event.key == key] == ["started", "progress", "finished"]


def test_what_nobody_calibrates_just_now_comes_first() -> None:
    one, same, other = spec(0, calibrated=True), spec(1, calibrated=True), spec(2)
    waiting = Line(Job(store=Path("x"), spec=each) for each in (one, same, other))
    taken = [waiting.take() for _ in range(2)]
    assert [job.spec for job in taken if job] == [one, other]
    waiting.end(taken[0], Finished(key=one.key, status="ok"))
    last = waiting.take(after=taken[0])
    assert last is not None
    assert last.spec == same
    assert waiting.take() is None


@pytest.mark.parametrize(("retries", "tries", "status"), [(0, 1, "failed"), (1, 2, "ok"), (5, 2, "ok")])
def test_a_failed_run_is_tried_again_as_often_as_asked_and_a_diverged_one_is_not(
    tmp_path: Path, retries: int, tries: int, status: str
) -> None:
    flaky, diverging = spec(1), spec(2)

    def act(job: Job) -> Iterator[Event]:
        if job.spec == diverging:
            yield end(job, "diverged", "loss nan")
        elif slot.asked.count(flaky) == 1:
            yield Died(key=job.spec.key, reason="the worker was killed", loading=False)
        else:
            yield from succeed(job)

    slot = Actor(act)
    results = sweep(planned(flaky, diverging), ResultStore(tmp_path), executor=SlotExecutor([slot]), retries=retries)
    assert [r.status for r in results] == [status, "diverged"]
    assert (slot.asked.count(flaky), slot.asked.count(diverging)) == (tries, 1)


def test_a_worker_that_dies_after_its_result_costs_nothing(tmp_path: Path) -> None:
    def act(job: Job) -> Iterator[Event]:
        end(job)
        yield Died(key=job.spec.key, reason="the worker was killed", loading=False)

    (found,) = sweep(planned(spec()), ResultStore(tmp_path), executor=SlotExecutor([Actor(act)]), retries=1)
    assert (found.status, found.reason) == ("ok", None)


def test_a_run_that_another_sweep_does_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "POLL", 0.01)
    theirs, mine = spec(1), spec(2)
    lease = leased(tmp_path, theirs.key)
    assert lease.__enter__() is None

    def act(job: Job) -> Iterator[Event]:
        with leased(job.store, job.spec.key) as holder:
            yield Busy(key=job.spec.key, holder=str(holder)) if holder else find_done(job) or end(job)

    def hear(event: Event) -> None:
        if isinstance(event, Finished) and event.key == mine.key:  # the other one ends now
            ResultStore(tmp_path).write(result(theirs, "failed", reason="theirs"))
            lease.__exit__(None, None, None)
        events.append(event)

    events: list[Event] = []
    slot = Actor(act)
    results = sweep(
        planned(theirs, mine), ResultStore(tmp_path), executor=SlotExecutor([slot]), retries=1, on_event=hear
    )
    assert [(r.status, r.reason) for r in results] == [("failed", "theirs"), ("ok", None)]
    assert [event.type for event in events if event.key == theirs.key] == ["started", "busy", "started", "finished"]
    assert events[-1].elsewhere, "what failed there is not tried again here"


def test_what_counts_as_done_since_the_plan(tmp_path: Path) -> None:
    store, one, asked = ResultStore(tmp_path), spec(), EvalSpec(task="piqa")
    job = Job(store=tmp_path, spec=one, evaluations=(asked,), before="then")
    assert find_done(job) is None
    store.write(result(one, "failed", created="then"))
    assert find_done(job) is None, "the failure that the plan saw"
    store.write(result(one, "failed", created="later"))
    assert find_done(job) is not None
    store.write(result(one, created="later"))
    assert find_done(job) is None, "not scored yet"
    scored = {"scores": (Score(task="piqa", metric="acc", value=0.5, n=1, eval=asked),)}
    store.write(result(one, created="then", **scored))
    assert find_done(job) is not None
    forced = job.model_copy(update={"force": True})
    assert find_done(forced) is None, "what is to be done again"
    store.write(result(one, created="later", **scored))
    assert find_done(forced) is not None


def test_ctrl_c_asks_the_slots_to_end_and_says_so_first(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    slot = Actor(succeed)
    with pytest.raises(KeyboardInterrupt):
        sweep(
            planned(*map(spec, range(50))),
            ResultStore(tmp_path),
            executor=SlotExecutor([slot]),
            on_event=interrupt,
            on_stop=lambda: slot.ended.append("told"),
        )
    assert slot.ended == ["told", "stop", "kill", "close"]


def test_a_full_disk_ends_the_sweep_with_one_sentence(tmp_path: Path) -> None:
    def act(job: Job) -> Iterator[Event]:
        yield end(job, "failed", "SafetensorError: I/O error: No space left on device (os error 28)")

    slot = Actor(act)
    with pytest.raises(HubinitError, match=r"disk is full.*the same command goes on"):
        sweep(planned(*map(spec, range(50))), ResultStore(tmp_path), executor=SlotExecutor([slot]), retries=1)
    assert len(slot.asked) < 50


HANGS = """
import os, sys, time
for line in sys.stdin:
    key = os.environ["KEY"]
    print('{"type": "progress", "key": "%s", "stage": "train"}' % key, flush=True)
    time.sleep(600)
"""


def test_a_worker_that_says_nothing_for_too_long_is_ended(tmp_path: Path) -> None:
    job = Job(store=tmp_path, spec=spec())
    slot = WorkerProcess((sys.executable, "-c", HANGS), {"KEY": job.spec.key}, silence=0.5)
    first, died = slot.do(job)
    assert isinstance(first, Progress)
    assert isinstance(died, Died)
    assert "said nothing for 0.00833 minutes and was ended" in died.reason
    assert not died.loading
    assert [event.type for event in slot.do(job)] == ["progress", "died"], "the next job has a new worker"
    slot.close()
