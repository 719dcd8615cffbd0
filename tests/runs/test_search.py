"""A search in rounds, with runs that are formulas instead of trainings: what is asked for, kept, resumed and afforded."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.models import names
from hubinit.records import Cost, Provenance, ResultStore, RunResult, Score
from hubinit.runs.decisions import read_decisions
from hubinit.runs.fair import ladder
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.protocol import read_protocol
from hubinit.runs.search import Searched, longest_search, run_search, template_request
from hubinit.specs import RunSpec

PROVENANCE = Provenance(versions={}, hardware={}, command="", created="2026-01-01")
BEST = {"none": 2e-4, "lora": 2e-4, "pissa": 6.3e-5, "dora": 5e-3, "full": 1e-5}
STEPS = 40
PARAMETERS = {"lora": 1000, "dora": 1060}


class Machine:
    """Does runs by formula and stores their results; is cut off after `fuse` runs."""

    def __init__(self, store: ResultStore, fuse: int = 10**6, broken: Sequence[str] = ()) -> None:
        self.store, self.fuse, self.broken = store, fuse, broken
        self.asked: list[PlannedRun] = []
        self.done = 0

    def __call__(self, planned: Sequence[PlannedRun], title: str) -> list[RunResult]:
        results = []
        for run in planned:
            self.asked.append(run)
            if run.state != "cached":
                if self.done == self.fuse:
                    raise KeyboardInterrupt
                self.done += 1
                self.store.write(self.result(run))
            stored = self.store.read(run.spec.key)
            assert stored is not None
            results.append(stored)
        return results

    def result(self, run: PlannedRun) -> RunResult:
        spec = run.spec
        steps = spec.recipe.steps if spec.recipe and spec.recipe.steps else 0
        whole = {
            "initialise": Cost(seconds=1),
            "train": Cost(seconds=steps),
            "evaluate": Cost(seconds=10.0 if run.evaluations else 0.0),
        }
        result = RunResult(key=spec.key, spec=spec, status="ok", provenance=PROVENANCE, costs=whole)
        if spec.method.name in self.broken:
            return result.model_copy(update={"status": "failed", "reason": "out of memory"})
        if spec.learning_rate > 1e-2:
            return result.model_copy(update={"status": "diverged", "reason": "at step 3"})
        loss = abs(math.log((spec.learning_rate or 1.0) / BEST[spec.method.name])) + 0.01 * spec.seed
        scores = tuple(Score(task=e.task, metric="acc", value=0.5, n=1, eval=e, primary=True) for e in run.evaluations)
        parameters = PARAMETERS.get(spec.method.name)
        return result.model_copy(update={"validation_loss": loss, "scores": scores, "trainable_parameters": parameters})


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(names, "pin", lambda spec: spec)  # without a revision no Hub is asked for its shapes
    monkeypatch.setattr(tasks, "pin", lambda name: f"{name:0<40}")
    methods = ("none", "lora", "pissa", "dora")
    overrides = (f"recipe.steps={STEPS}",)
    return Request(("smollm2-135m",), methods, ("arc-easy",), protocol="fair", overrides=overrides, dtype="float32")


def search(
    request: Request,
    root: Path,
    *,
    budget: float | None = None,
    shifts: dict[str, int] | None = None,
    **machine: object,
) -> tuple[Searched, Machine]:
    store = ResultStore(root)
    worker = Machine(store, **machine)  # type: ignore[arg-type]
    protocol = request.read_protocol()
    templates = plan(template_request(request, protocol), store)
    return run_search(templates, protocol, store, worker, budget=budget, shifts=shifts or {}), worker


def rates(runs: Sequence[PlannedRun], method: str, steps: int) -> list[float]:
    """The rates that were only trained, for so many steps."""
    specs = [run.spec for run in runs if run.spec.method.name == method and not run.evaluations]
    return [s.learning_rate for s in specs if s.recipe is not None and s.recipe.steps == steps]


def test_every_method_gets_the_same_grid_and_its_own_best_rate_at_every_seed(request_: Request, tmp_path: Path) -> None:
    found, machine = search(request_, tmp_path)
    (decisions,) = found.decisions
    grid = list(request_.read_protocol().learning_rates)
    for one in decisions.methods:
        assert rates(machine.asked, one.method, STEPS // 4)[: len(grid)] == grid
        tuned = {final.seed for final in one.finals if final.learning_rate == one.chosen_rate}
        default = {final.seed for final in one.finals if final.learning_rate == decisions.default_rate}
        assert tuned == default == {0, 1, 2}
        assert {final.status for final in one.finals} == {"ok"}
    chosen = {one.method: (one.chosen_rate, one.added_rates) for one in decisions.methods}
    assert chosen == {"lora": (2e-4, ()), "pissa": (6.3e-5, ()), "dora": (6.3e-3, (6.3e-3, 2e-2))}
    assert {one.method: one.parameters_to_lora for one in decisions.methods} == {
        "lora": 1.0,
        "pissa": None,
        "dora": pytest.approx(1.06),
    }
    assert "dora at 0.02 after 25% of the training: diverged: at step 3" in decisions.dropped()
    assert read_decisions(found.files[0]) == decisions


def test_only_final_runs_and_the_base_are_scored_and_all_see_the_same_data(request_: Request, tmp_path: Path) -> None:
    found, machine = search(request_, tmp_path)
    scored = {run.spec.key for run in machine.asked if run.evaluations}
    finals = {final.key for one in found.decisions[0].methods for final in one.finals}
    assert scored - finals == {run.spec.key for run in machine.asked if run.spec.method.name == "none"}
    assert {result.key for result in found.results} == scored
    data = {(run.spec.data, run.spec.seed_of("data"), run.spec.method.name) for run in machine.asked if run.spec.recipe}
    assert len({(spec_data, seed) for spec_data, seed, _ in data}) == 3
    seeds_of_search = {run.spec.seed for run in machine.asked if not run.evaluations}
    assert seeds_of_search == {0}


@pytest.mark.parametrize(("fuse", "budget"), [(0, None), (3, None), (22, None), (38, None), (1, 900.0), (13, 900.0)])
def test_a_search_that_was_cut_off_ends_as_one_that_was_not(
    fuse: int, budget: float | None, request_: Request, tmp_path: Path
) -> None:
    straight, whole = search(request_, tmp_path / "straight", budget=budget)
    with pytest.raises(KeyboardInterrupt):
        search(request_, tmp_path / "broken", budget=budget, fuse=fuse)
    resumed, rest = search(request_, tmp_path / "broken", budget=budget)
    assert resumed.decisions == straight.decisions
    assert resumed.files[0].read_bytes() == straight.files[0].read_bytes()
    assert rest.done == whole.done - fuse, "nothing is done twice"


@pytest.mark.parametrize("budget", [30.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 1e9])
def test_a_budget_is_kept_and_what_is_left_out_is_named(budget: float, request_: Request, tmp_path: Path) -> None:
    found, _machine = search(request_, tmp_path, budget=budget)
    (decisions,) = found.decisions
    first = 1 + STEPS + 10
    assert decisions.spent_seconds <= max(budget, first)
    assert decisions.budget_seconds == budget
    whole = 0
    for one in decisions.methods:
        done = [final for final in one.finals if final.status == "ok"]
        assert all(final.reason for final in one.finals if final.status is None)
        assert one.ended_early or one.chosen_rate is not None
        whole += not one.ended_early and len(done) == len(one.finals)
    assert whole == (3 if budget == 1e9 else whole)
    assert bool(decisions.dropped())
    begun = [one for one in decisions.methods if one.chosen_rate is not None]
    if budget >= 600:
        assert begun, "something is compared"
        assert all(any(final.status == "ok" for final in one.finals) for one in begun)


def test_scored_runs_come_before_further_search(request_: Request, tmp_path: Path) -> None:
    """At half of what all takes, every method that was begun has its scores at its own rate."""
    full, _ = search(request_, tmp_path / "all")
    half, _ = search(request_, tmp_path / "half", budget=full.decisions[0].spent_seconds / 2)
    for one in half.decisions[0].methods:
        if one.tried:
            done = {(final.learning_rate, final.seed) for final in one.finals if final.status == "ok"}
            assert {(one.chosen_rate, seed) for seed in (0, 1, 2)} <= done
    assert any("the budget has" in line for line in half.decisions[0].dropped())


def test_a_method_that_fails_costs_its_own_runs_and_is_tried_again_by_the_next_command(
    request_: Request, tmp_path: Path
) -> None:
    found, machine = search(request_, tmp_path, broken=("pissa",))
    pissa = next(one for one in found.decisions[0].methods if one.method == "pissa")
    assert pissa.ended_early == "the method was left out: no rate has a validation loss"
    assert {tried.reason for tried in pissa.tried} == {"failed: out of memory"}
    assert not pissa.finals
    again, machine = search(request_, tmp_path)
    assert {run.spec.method.name for run in machine.asked if run.state == "run"} == {"pissa"}
    assert all(one.chosen_rate for one in again.decisions[0].methods)


def test_a_dry_run_counts_at_least_what_is_done(request_: Request, tmp_path: Path) -> None:
    store, protocol = ResultStore(tmp_path), read_protocol("fair", request_.overrides)
    most = longest_search(plan(template_request(request_, protocol), store), protocol, store)
    _found, machine = search(request_, tmp_path)
    assert len({run.spec.key for run in machine.asked}) <= len(most)
    assert len(most) == len({run.spec.key for run in most})


def test_an_optimiser_is_a_method_of_its_own(request_: Request, tmp_path: Path) -> None:
    asked = replace(request_, methods=("lora",), optimisers=("adamw", "lora+"))
    found, _ = search(asked, tmp_path)
    assert [(one.method, one.optimiser) for one in found.decisions[0].methods] == [("lora", "adamw"), ("lora", "lora+")]


def test_more_methods_later_find_what_was_done(request_: Request, tmp_path: Path) -> None:
    search(replace(request_, methods=("lora",)), tmp_path)
    _found, machine = search(replace(request_, methods=("lora", "pissa")), tmp_path)
    assert {run.spec.method.name for run in machine.asked if run.state == "run"} == {"pissa"}
    assert len(list((tmp_path / "fair").iterdir())) == 1


@pytest.mark.parametrize(
    "override",
    [
        "validation_samples=0",
        "search.rungs=[0.5,0.2]",
        "search.keep=0",
        "search.rungs=[1.0]",
        "learning_rates=[0.0,1e-3]",
    ],
)
def test_a_search_that_cannot_choose_is_refused(override: str, request_: Request) -> None:
    with pytest.raises(HubinitError, match=r"search|learning_rates"):
        replace(request_, overrides=(override,)).read_protocol()


def test_a_run_of_the_search_is_another_run_than_the_whole_training(request_: Request, tmp_path: Path) -> None:
    _, machine = search(request_, tmp_path)
    lengths: dict[int | None, set[str]] = {}
    for run in machine.asked:
        if run.spec.recipe is not None:
            lengths.setdefault(run.spec.recipe.steps, set()).add(
                RunSpec.model_validate_json(run.spec.model_dump_json()).key
            )
    assert set(lengths) == {STEPS // 4, STEPS}
    assert not lengths[STEPS // 4] & lengths[STEPS]


def test_a_suggested_grid_is_where_a_method_begins_and_ends_at_the_same_rates(
    request_: Request, tmp_path: Path
) -> None:
    shifts = {"pissa adamw": -1, "dora adamw": 2}
    found, machine = search(request_, tmp_path / "moved", shifts=shifts)
    plain, _ = search(request_, tmp_path / "plain")
    (decisions,), (usual,) = found.decisions, plain.decisions
    grid = request_.read_protocol().learning_rates
    for one in decisions.methods:
        own = ladder(grid, 0, shifts.get(f"{one.method} adamw", 0))
        assert one.grid == (own if own != grid else None)
        assert tuple(rates(machine.asked, one.method, STEPS // 4)[: len(own)]) == own
    assert [one.chosen_rate for one in decisions.methods] == [one.chosen_rate for one in usual.methods]
    assert not next(one for one in decisions.methods if one.method == "dora").added_rates, (
        "its best was in the moved grid"
    )
    assert found.files[0].name.endswith("-suggested.json")
    assert read_decisions(found.files[0]) == decisions
