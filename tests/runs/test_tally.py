"""Where each run of a sweep is, and how long the rest takes."""

import pytest

from hubinit.records import Provenance, RunResult
from hubinit.runs.job import Busy, Died, Finished, Loading, Progress, Started
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import summarise
from hubinit.runs.tally import Tally, say_counts
from hubinit.specs import MethodSpec, ModelSpec, RunSpec


def planned(*names: str) -> list[PlannedRun]:
    """One run for each name: a model, and a seed after the colon."""
    parts = [name.split(":") for name in names]
    method = MethodSpec(name="lora")
    specs = [RunSpec(model=ModelSpec(id=m), method=method, rank=2, alpha=4, seed=int(s)) for m, s in parts]
    return [PlannedRun(spec, "arc-easy", ()) for spec in specs]


def cached(run: PlannedRun) -> PlannedRun:
    provenance = Provenance(versions={}, hardware={}, command="", created="")
    result = RunResult(key=run.spec.key, spec=run.spec, status="ok", provenance=provenance)
    return PlannedRun(run.spec, run.group, (), summarise(result))


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_a_run_goes_from_left_to_running_to_its_end_and_again() -> None:
    runs = planned("a:0", "a:1", "a:2", "a:3", "a:4")
    tally = Tally([*runs[:4], cached(runs[4])])
    zero, one, two, three, four = (run.spec.key for run in runs)
    tally(Started(key=zero, place="GPU 0"))
    tally(Loading(key=zero, model="org/a"))
    tally(Busy(key=one, holder="process 7 on node"))
    tally(Started(key=two, place="GPU 1"))
    tally(Died(key=two, reason="killed", loading=False))
    assert [tally.state(key) for key in (zero, one, two, three, four)] == [
        "running", "elsewhere", "failed", "left", "cached"
    ]  # fmt: skip
    assert (tally.doing[zero].place, tally.doing[zero].words) == ("GPU 0", "loading org/a")
    assert say_counts(tally.counts()) == "1 running, 1 done (1 before), 1 elsewhere, 1 failed, 1 left"
    tally(Started(key=two, place="GPU 1"))  # once more
    tally(Finished(key=one, status="ok", elsewhere=True))
    assert tally.counts() == {"running": 2, "cached": 1, "ok": 1, "left": 1}
    tally.add([cached(runs[1]), *planned("a:5")])  # the next round
    assert tally.counts() == {"running": 2, "cached": 1, "ok": 1, "left": 2}


def test_the_time_left_is_that_of_the_runs_of_each_model_over_what_runs_at_once() -> None:
    runs, clock = planned("large:0", "large:1", *(f"small:{seed}" for seed in range(10))), Clock()
    large, small, next_small = (runs[place].spec.key for place in (0, 2, 3))
    tally = Tally(runs, now=clock)
    assert tally.seconds_left() is None
    tally(Started(key=small, place="GPU 0"))
    tally(Started(key=large, place="GPU 1"))
    clock.time += 10
    tally(Finished(key=small, status="ok"))
    assert tally.seconds_left() == pytest.approx((9 * 10 + 10 + 0) / 2), "large is taken for small as yet"
    tally(Started(key=next_small, place="GPU 0"))
    tally(Progress(key=large, stage="train"))
    clock.time += 20
    tally(Progress(key=large, stage="train", step=1, steps=4))
    # small: 10 s each, of which one has run for 20 s; large: 10 s and four times 20 s, of which one has run for 30 s
    assert tally.seconds_left() == pytest.approx((8 * 10 + 0 + 90 + 60) / 2)
    tally(Finished(key=next_small, status="failed"))
    assert tally.seconds_left() == pytest.approx((8 * 10 + 90 + 60) / 2), (
        "what failed says nothing of how long one takes"
    )
    for run in runs[4:]:
        tally(Started(key=run.spec.key, place="GPU 0"))
        clock.time += 10
        tally(Finished(key=run.spec.key, status="ok"))
    assert tally.seconds_left() == pytest.approx(90), (
        "the last one takes as long as it takes, however many places are free"
    )
