"""The order, the resumption and the cutting off of `make study-gpu`, with executors that compute nothing."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gpu_study
import pytest

from hubinit.records import Provenance, ResultStore, RunResult
from hubinit.runs.job import Died, Event, Finished, Job
from hubinit.runs.plan import PlannedRun
from hubinit.specs import CalibrationSpec, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec

NOWHERE = Provenance(versions={}, hardware={}, command="", created="")
MODEL = ModelSpec(id="org/tiny")


def spec(method: str, rate: float = 1e-4, seed: int = 0) -> RunSpec:
    if method == "none":
        return RunSpec(model=MODEL, method=MethodSpec(name="none"), rank=0, alpha=0)
    return RunSpec(
        model=MODEL,
        method=MethodSpec(name=method),
        rank=4,
        alpha=8,
        data=DataSpec(tasks=("arc-easy",)),
        recipe=Recipe(),
        calibration=CalibrationSpec() if method in ("filet", "lora-da") else None,
        learning_rate=rate,
        seed=seed,
    )


def result(of: RunSpec, status: str = "ok") -> RunResult:
    return RunResult.model_validate({"key": of.key, "spec": of, "status": status, "provenance": NOWHERE})


def jobs(store: ResultStore, specs: Sequence[RunSpec]) -> list[Job]:
    return [Job(store=store.root, spec=one) for one in specs]


class Fake:
    """Takes `seconds` for a job and leaves a result and an adapter; `dies` says at which jobs it dies, loading or not."""

    running: list[str]  # shared by all: what runs now

    def __init__(self, seconds: float = 0.0, dies: dict[str, bool] | None = None) -> None:
        self.seconds, self.dies, self.started, self.closed = seconds, dies or {}, list[str](), False
        self.beside: list[set[str]] = []

    def do(self, job: Job) -> Iterator[Event]:
        name = job.spec.method.name
        self.started.append(name)
        Fake.running.append(name)
        self.beside.append(set(Fake.running))
        time.sleep(self.seconds)
        Fake.running.remove(name)
        if name in self.dies:
            yield Died(key=job.spec.key, reason="killed", loading=self.dies[name])
            return
        store = ResultStore(job.store)
        store.write(result(job.spec))
        (store.folder(job.spec.key) / "adapter").mkdir()
        yield Finished(key=job.spec.key, status="ok")

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def nothing_runs() -> None:
    Fake.running = []


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ResultStore, ResultStore]:
    return ResultStore(tmp_path / "work"), ResultStore(tmp_path / "out")


Stores = tuple[ResultStore, ResultStore]


def test_all_methods_at_one_rate_and_seed_come_before_the_next() -> None:
    as_planned = [spec(m, rate, seed) for m in ("lora", "filet") for rate in (5e-4, 2e-4) for seed in (0, 1)]
    planned = [PlannedRun(one, "arc-easy", ()) for one in (*as_planned, spec("none"))]
    order = [(run.spec.method.name, run.spec.learning_rate, run.spec.seed) for run in gpu_study.rounds(planned)]
    assert order == [
        ("none", 0.0, 0),
        *[(method, rate, seed) for seed in (0, 1) for rate in (5e-4, 2e-4) for method in ("lora", "filet")],
    ]


def test_both_grids_are_valid_protocols() -> None:
    whole, small = (gpu_study.request(rehearse).read_protocol() for rehearse in (False, True))
    assert whole.recipe.steps and whole.learning_rates[0] == 5e-4 and len(whole.seeds) > 2
    assert (small.recipe.steps, small.limit, small.seeds) == (2, 4, (0,))
    assert set(gpu_study.request(True).methods) > {"none", "lora", "filet"}


def test_results_come_home_and_weights_do_not(stores: Stores) -> None:
    store, kept = stores
    specs = [spec("none"), *(spec("lora", seed=seed) for seed in range(4))]
    workers = [Fake(), Fake()]
    done = gpu_study.run_all(jobs(store, specs), store, kept, workers, time.monotonic() + 30)
    assert {one.key for one in done} == {one.key for one in specs}
    assert all(kept.read(one.key) == result(one) for one in specs)
    assert not list(store.root.glob("runs/*/adapter"))
    assert all(worker.closed for worker in workers)


def test_one_run_calibrates_while_the_others_wait_for_it(stores: Stores) -> None:
    store, kept = stores
    specs = [spec("filet"), spec("lora-da"), spec("lora"), spec("filet", 2e-4)]
    workers = [Fake(0.3), Fake(0.3)]
    gpu_study.run_all(jobs(store, specs), store, kept, workers, time.monotonic() + 30)
    beside = [together for worker in workers for together in worker.beside]
    first = next(together for together in beside if "filet" in together and "lora" in together)
    assert first == {"filet", "lora"}  # lora-da was next in line, and let it pass
    assert sum(len(worker.started) for worker in workers) == 4


def test_a_calibration_that_failed_holds_up_nobody(stores: Stores) -> None:
    store, kept = stores
    worker = Fake(dies={"filet": False})
    done = gpu_study.run_all(
        jobs(store, [spec("filet"), spec("lora-da")]), store, kept, [worker], time.monotonic() + 30
    )
    assert [(one.spec.method.name, one.status, one.reason) for one in done] == [
        ("filet", "failed", "killed"),
        ("lora-da", "ok", None),
    ]


def test_a_base_that_kills_its_workers_does_not_go_on_for_ever(stores: Stores) -> None:
    store, kept = stores
    specs = [spec("lora", seed=seed) for seed in range(9)]
    worker = Fake(dies={"lora": True})
    gpu_study.run_all(jobs(store, specs), store, kept, [worker], time.monotonic() + 30)
    assert len(worker.started) == gpu_study.LOADS


def test_a_study_that_is_cut_off_goes_on_where_it_was(stores: Stores, tmp_path: Path) -> None:
    store, kept = stores
    specs = [spec("lora", seed=seed) for seed in range(8)]
    start = time.monotonic()
    done = gpu_study.run_all(jobs(store, specs), store, kept, [Fake(0.2)], start + 0.7)
    assert 0 < len(done) < 8 and time.monotonic() - start < 3
    kept.write(result(spec("pissa"), "partial"))  # its adapter is not here any more
    elsewhere = ResultStore(tmp_path / "another machine")
    gpu_study.take_over(kept, elsewhere)
    finished = {one.key for one in elsewhere.results()}
    assert {one.key for one in done} <= finished and spec("pissa").key not in finished
    planned = [PlannedRun(one, "arc-easy", (), elsewhere.readable(one.key)) for one in specs]
    again = Fake()
    left = gpu_study.in_order(gpu_study.jobs(planned, elsewhere, eval_batch_size=1, force=False), planned)
    gpu_study.run_all(left, elsewhere, kept, [again], time.monotonic() + 30)
    assert len(again.started) == len([one for one in specs if one.key not in finished])
    assert all(kept.read(one.key) for one in specs)


def test_what_a_killed_call_had_finished_but_not_copied_is_copied_by_the_next(stores: Stores) -> None:
    store, kept = stores
    store.write(result(spec("lora")))
    gpu_study.take_over(kept, store)
    assert kept.read(spec("lora").key) is not None


def test_the_line_is_safe_for_many_threads() -> None:
    store = ResultStore(Path("unused"))
    specs = [spec("lora", seed=seed) for seed in range(200)]
    line, taken = gpu_study.Line(jobs(store, specs), time.monotonic() + 30), list[str]()

    def take() -> None:
        while (job := line.next()) is not None:
            taken.append(job.spec.key)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(one.key for one in specs)
