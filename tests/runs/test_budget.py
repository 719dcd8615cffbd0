"""Which runs a budget of time lets through, with a clock of our own."""

from hubinit.records import Cost, Provenance, ResultStore, RunResult
from hubinit.runs import budget
from hubinit.runs.budget import by_priority, run_within
from hubinit.runs.costs import hardware
from hubinit.runs.estimate import estimate
from hubinit.runs.plan import PlannedRun
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec


def planned(method, seed, store=None):
    spec = RunSpec(
        model=ModelSpec(id="hubinit/SmolLM2-135M-Instruct-from-Q4_1", dtype="float32"),
        method=MethodSpec(name=method),
        rank=2,
        alpha=4,
        data=DataSpec(tasks=("arc-easy",)),
        recipe=Recipe(steps=10),
        seed=seed,
    )
    return PlannedRun(spec, "arc-easy", (), store.read(spec.key) if store else None)


def executor(store, seconds):
    """Does runs that take what `seconds` says for their method; returns also the rounds that it was asked for."""
    rounds = []

    def do(runs, title):
        rounds.append([(run.spec.method.name, run.spec.seed) for run in runs if run.state != "cached"])
        results = []
        for run in runs:
            made = Provenance(
                versions={}, hardware=hardware(), command="", created=f"2026-01-01T00:00:{len(rounds):02d}"
            )
            costs = {"load": Cost(seconds=0.0), "train": Cost(seconds=seconds[run.spec.method.name])}
            result = RunResult(key=run.spec.key, spec=run.spec, status="ok", costs=costs, provenance=made)
            results.append(run.stored or store.write(result))
        return results

    return do, rounds


def plan(store):
    return [planned(method, seed, store) for method in ("lora", "pissa") for seed in (0, 1, 2)]


def test_seeds_come_in_turn():
    names = [
        (run.spec.method.name, run.spec.seed) for run in by_priority([planned(m, s) for m in "ab" for s in (4, 7)])
    ]
    assert names == [("a", 4), ("b", 4), ("a", 7), ("b", 7)]


def test_what_fits_is_done_by_what_was_measured_and_the_rest_is_left_out(tmp_path):
    store = ResultStore(tmp_path)
    do, rounds = executor(store, {"lora": 10.0, "pissa": 30.0})
    results, left = run_within(100.0, plan(store), store, do)
    # One to measure; then pissa is taken to cost what lora did, and all five fit: 10 + 5 * 10 <= 100.
    assert rounds == [[("lora", 0)], [("pissa", 0), ("lora", 1), ("pissa", 1), ("lora", 2), ("pissa", 2)]]
    assert (len(results), left) == (6, [])


def test_a_second_attempt_has_what_the_first_left(tmp_path):
    store = ResultStore(tmp_path)
    do, rounds = executor(store, {"lora": 10.0, "pissa": 30.0})
    _, left = run_within(35.0, plan(store), store, do)
    assert rounds == [[("lora", 0)], [("pissa", 0), ("lora", 1)]]
    assert [(run.spec.method.name, run.spec.seed) for run in left] == [("pissa", 1), ("lora", 2), ("pissa", 2)]
    do, rounds = executor(store, {"lora": 10.0, "pissa": 30.0})
    results, left = run_within(64.0, plan(store), store, do)
    assert rounds == [[], [("lora", 2)]], "50 s are spent: a lora of 10 s fits, a pissa of 30 s does not"
    assert (len(results), len(left)) == (4, 2)


def test_a_calibration_is_counted_once(tmp_path):
    costs = {"calibrate": Cost(seconds=5.0), "train": Cost(seconds=1.0), "load": Cost(seconds=9.0)}
    made = Provenance(versions={}, hardware={}, command="", created="")
    results = [
        RunResult(key=str(seed), spec=planned("eva", seed).spec, status="ok", costs=costs, provenance=made)
        for seed in (0, 1)
    ]
    assert budget.spent(("eva", budget.seconds_of(result)) for result in results) == 7.0


def test_an_estimate_reads_each_result_once_and_only_of_this_machine(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    (lora, pissa, *_) = plan(store)[::3]
    for run, seconds, machine in ((lora, 10.0, hardware()), (pissa, 99.0, {"cpu": "another"})):
        made = Provenance(versions={}, hardware=machine, command="", created="2026-01-01")
        costs = {"load": Cost(seconds=1.0), "train": Cost(seconds=seconds)}
        store.write(RunResult(key=run.spec.key, spec=run.spec, status="ok", costs=costs, provenance=made))
    waiting = [planned("lora", 5), planned("pissa", 5)]
    first = estimate(waiting, store)
    assert first.seconds == [11.0, 11.0], "pissa is taken to cost what lora did here"
    monkeypatch.setattr(ResultStore, "read", None)  # whoever reads a result now fails
    monkeypatch.setattr(ResultStore, "results", None)
    assert estimate(waiting, store) == first
