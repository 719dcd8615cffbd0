"""What a sweep hands out: one job per run, runs of one base one after another, and who shares a calibration pass."""

from hubinit.records import Provenance, ResultStore, RunResult, Score
from hubinit.runs.plan import PlannedRun
from hubinit.runs.stored import summarise
from hubinit.runs.sweep import jobs, sweep
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, RunSpec


def spec(method="filet", model="org/one", samples=8, tasks=("arc-easy",), **changes) -> RunSpec:
    calibration = CalibrationSpec(samples=samples) if method != "lora" else None
    return RunSpec(
        **{"model": ModelSpec(id=model), "method": MethodSpec(name=method), "rank": 2, "alpha": 4},
        data=DataSpec(tasks=tasks),
        calibration=calibration,
        **changes,
    )


def planned(*specs: RunSpec) -> list[PlannedRun]:
    return [PlannedRun(one, "arc-easy", ()) for one in specs]


def test_runs_that_share_a_pass_know_each_other_once_for_each_way_to_calibrate(tmp_path):
    first, other_rate = spec(learning_rate=1e-3), spec(learning_rate=1e-4)
    more, eva = spec(samples=16), spec("eva", seed=3)
    elsewhere, lora = spec("eva", tasks=("piqa",)), spec("lora")
    made = jobs(
        planned(first, other_rate, more, eva, elsewhere, lora), ResultStore(tmp_path), eval_batch_size=1, force=False
    )
    told = {job.spec.key: job.peers for job in made}
    assert told[first.key] == told[other_rate.key] == told[eva.key] == (first, more, eva)
    assert told[elsewhere.key] == (elsewhere,)
    assert told[lora.key] == ()


def test_runs_of_one_base_follow_each_other(tmp_path):
    runs = planned(*(spec(model=f"org/{seed % 2}", seed=seed) for seed in range(6)))
    order = [job.spec.model.id for job in jobs(runs, ResultStore(tmp_path), eval_batch_size=1, force=False)]
    assert order == sorted(order, key=order.index)
    assert [order.count(name) for name in dict.fromkeys(order)] == [3, 3]


def test_a_partial_result_that_by_now_holds_everything_is_ok(tmp_path):
    store = ResultStore(tmp_path)
    provenance = Provenance(versions={}, hardware={}, command="x", created="2026-01-01")
    partial = RunResult(key=spec().key, spec=spec(), status="partial", reason="piqa: gone", provenance=provenance)
    store.write(partial)
    (trained_only,) = sweep([PlannedRun(spec(), "arc-easy", (), summarise(partial))], store)
    assert trained_only.status == "partial", "who asks for no scores does not say that all are there"
    score = Score(task="piqa", metric="acc", value=0.5, n=1, eval=EvalSpec(task="piqa"))
    whole = partial.model_copy(update={"scores": (score,)})
    store.write(whole)
    (result,) = sweep([PlannedRun(spec(), "arc-easy", (EvalSpec(task="piqa"),), summarise(whole))], store)
    assert (result.status, result.reason) == ("ok", None)
