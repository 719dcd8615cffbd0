"""Rows, merging and ranking against small tables worked out by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.leaderboard.boards import boards
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import markdown
from hubinit.leaderboard.table import COLUMNS, failures, frame, merge, rows, table
from hubinit.records import Cost, Provenance, RunResult, Score
from hubinit.specs import CalibrationSpec, DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec


def run(
    method: str = "lora",
    lr: float = 1e-4,
    seed: int = 0,
    value: float | None = 0.5,
    *,
    loss: float | None = None,
    tasks: tuple[str, ...] = ("arc-easy",),
    created: str = "2026-11-01T00:00:00Z",
    reason: str = "the loss was not finite at step 3",
    model: str = "org/model",
    stderr: float | None = 0.05,
    version: int = 1,
    model_spec: ModelSpec | None = None,
    **settings: object,
) -> RunResult:
    """A run; `settings` are fields of its spec."""
    none = method == "none"
    spec = RunSpec(
        model=model_spec or ModelSpec(id=model, revision="a" * 40),
        method=MethodSpec(name=method, version=version),
        rank=0 if none else 8,
        alpha=0 if none else 16,
        data=None if none else DataSpec(tasks=("arc-easy",)),
        recipe=None if none else Recipe(steps=40),
        learning_rate=0 if none else lr,
        seed=seed,
    )
    spec = spec.model_copy(update=settings)
    scores = (
        ()
        if value is None
        else tuple(
            Score(task=t, metric="acc", value=value, n=100, stderr=stderr, primary=True, eval=EvalSpec(task=t))
            for t in tasks
        )
    )
    return RunResult(
        key=spec.key,
        spec=spec,
        status="ok" if scores else "diverged",
        reason=None if scores else reason,
        scores=scores,
        validation_loss=loss,
        costs={"calibrate": Cost(seconds=2.0), "initialise": Cost(seconds=0.5, peak_memory_bytes=7)},
        provenance=Provenance(versions={"torch": "2.13"}, hardware={"cpu": "2 cores"}, command="x", created=created),
    )


def line(ranking: pd.DataFrame, method: str) -> pd.Series:
    return ranking[ranking["method"] == method].iloc[0]


def test_optimisers_are_lines_of_one_table_compared_with_plain_lora():
    plus = Recipe(steps=40, optimiser="lora+")
    results = [
        *(run("lora", seed=seed, value=0.5) for seed in (0, 1)),
        *(run("lora", seed=seed, value=0.6, recipe=plus) for seed in (0, 1)),
        run("pissa", value=0.4, recipe=plus),
        run("pissa", value=0.7, recipe=plus.model_copy(update={"lora_plus_ratio": 4.0})),
        run("none", value=0.1),
        run("lora", seed=2, value=None, recipe=plus),
    ]
    runs = table(results)
    ranking = rank(runs)
    [board] = boards(ranking)
    assert board.labels == (*("pissa (lora+ lora_plus_ratio=4.0)", "lora (lora+)", "lora", "pissa (lora+)", "none"),)
    assert [None if math.isnan(delta) else round(delta, 6) for delta in ranking["delta"]] == [
        0.2,
        0.1,
        None,
        -0.1,
        -0.4,
    ]
    assert set(ranking["recipe"].dropna()) == {'{"steps":40}'}
    assert set(runs["recipe"].dropna()) > {'{"optimiser":"lora+","steps":40}'}, "the data keep it"
    assert list(failures(runs)["optimiser"]) == ["lora+"]
    assert "lora (lora+) 1" in board.note


def test_rows_of_before_the_optimiser_was_a_column_get_it_from_their_recipe():
    results = [run("lora", value=0.5), run("lora", value=0.6, recipe=Recipe(steps=40, optimiser="lora+"))]
    older = [{**row, "optimiser": None} for row in rows(results)]
    assert list(frame(older)["optimiser"]) == ["adamw", "lora+"]


def test_runs_whose_method_had_the_option_that_froze_a_still_rank():
    spec = run("pissa").spec
    old = spec.model_copy(update={"method": MethodSpec(name="pissa", options={"train_a": False})})
    results = [run("lora"), run("pissa"), run("pissa").model_copy(update={"spec": old, "key": old.key})]
    [board] = boards(rank(table(results)))
    assert sorted(board.labels) == ["lora", "pissa", "pissa (train_a=False)"]


def test_rows_are_one_per_run_task_and_metric_and_a_failed_run_has_one_without_a_score():
    found = rows([run(tasks=("arc-easy", "piqa")), run(seed=1, value=None)])
    assert [(row.get("task"), row.get("value"), row["status"]) for row in found] == [
        ("arc-easy", 0.5, "ok"),
        ("piqa", 0.5, "ok"),
        (None, None, "diverged"),
    ]
    assert found[0]["seconds_calibrate"] == 2.0
    assert found[0]["peak_memory_bytes"] == 7
    assert set(found[0]) <= set(COLUMNS), "every row's field is a column"


def test_table_has_the_same_columns_and_types_whatever_is_missing():
    assert list(table([]).columns) == COLUMNS
    empty, full = table([run(value=None)]), table([run(loss=1.0)])
    assert [str(t) for t in empty.dtypes] == [str(t) for t in full.dtypes]


RESULTS = [
    run(seed=0),
    run(seed=1),
    run("filet", seed=0, value=None),
    run("filet", seed=0, value=0.7, created="2026-11-02T00:00:00Z"),
    run("none", tasks=("arc-easy", "piqa")),
]


@settings(max_examples=15, deadline=None)
@given(st.permutations(RESULTS), st.lists(st.integers(0, len(RESULTS)), max_size=3))
def test_merging_in_any_order_and_any_portions_gives_the_same_table(order, cuts):
    expected = merge(table([]), table(RESULTS))
    edges = [0, *sorted(cuts), len(order)]
    merged = table([])
    for start, stop in itertools.pairwise(edges):
        merged = merge(merged, table(order[start:stop]))
    pd.testing.assert_frame_equal(merged, expected)
    pd.testing.assert_frame_equal(merge(merged, merged), merged)


def test_merge_keeps_the_first_score_and_drops_the_failure_that_was_repeated():
    """Whatever the time that it gives: anyone can write one."""
    merged = merge(table(RESULTS), table([run(seed=0, value=0.6, created="9999-01-01T00:00:00Z")]))
    assert len(merged) == 5
    assert line(merged, "filet")["status"] == "ok"
    assert merged.loc[(merged["method"] == "lora") & (merged["seed"] == 0), "value"].tolist() == [0.5]


def test_rank_takes_the_median_over_seeds_and_the_paired_difference():
    lora, filet = [0.50, 0.60, 0.55], [0.58, 0.63, 0.62]
    results = [run("lora", seed=s, value=v, stderr=0.003) for s, v in enumerate(lora)]
    results += [run("filet", seed=s, value=v, stderr=0.004) for s, v in enumerate(filet)]
    ranking = rank(table([*results, run("none", value=0.4), run("filet", seed=9, value=None)]))
    assert ranking["method"].tolist() == ["filet", "lora", "none"]
    best = line(ranking, "filet")
    differences = np.subtract(filet, lora)
    assert best["value"] == 0.62
    assert best["std"] == pytest.approx(np.std(filet, ddof=1))
    assert (best["seeds"], best["pairs"], best["n"], best["failed"]) == (3, 3, 100, 1)
    assert best["delta"] == pytest.approx(differences.mean())
    assert best["delta_stderr"] == pytest.approx(math.hypot(differences.std(ddof=1) / math.sqrt(3), 0.003, 0.004))
    assert best["init_seconds"] == 2.5
    assert best["best"], "0.063 ahead with an uncertainty of 0.018"
    assert line(ranking, "none")["delta"] == pytest.approx(0.4 - np.mean(lora)), "the base counts for every seed"


def test_a_linear_probe_is_in_every_table_that_learned_as_it_did_and_is_paired_by_seed():
    data = DataSpec(tasks=("arc-easy",))

    def probe(seed, value, steps=40, lr=1e-4):
        learned = {"data": data, "recipe": Recipe(steps=steps), "learning_rate": lr}
        return run("none", seed=seed, value=value, loss=1 / (1 + value), **learned)

    lora = [run(rank=r, seed=s, value=0.5 + s / 4) for r in (4, 8) for s in (0, 1)]
    probes = [*(probe(s, 0.375 + s / 8) for s in (0, 1)), probe(0, 0.5, lr=1e-2), probe(1, 0.5, lr=1e-2)]
    ranking = rank(table([*lora, *probes, probe(0, 0.3, steps=7)]))
    assert list(zip(ranking["method"], ranking["rank"], ranking["lr"], ranking["value"], strict=True)) == [
        ("lora", 4, 1e-4, 0.625), ("none", 4, 1e-2, 0.5),
        ("lora", 8, 1e-4, 0.625), ("none", 8, 1e-2, 0.5),
        ("none", 0, 1e-4, 0.3),
    ]  # fmt: skip
    first = line(ranking, "none")
    assert (first["default_lr"], first["default"], first["seeds"], first["pairs"]) == (1e-4, 0.4375, 2, 2)
    assert first["delta"] == pytest.approx(-0.125)
    titles = [board.title for board in boards(ranking)]
    assert sum("linear probe" in title and "not trained" not in title for title in titles) == 1


def test_a_lead_within_the_uncertainty_is_not_marked():
    ranking = rank(table([run("lora", value=0.50), run("filet", value=0.55)]))
    assert line(ranking, "filet")["delta_stderr"] == pytest.approx(math.hypot(0.05, 0.05))
    assert not ranking["best"].any()


def test_agreeing_seeds_do_not_hide_that_the_test_set_is_small():
    results = [run(name, seed=s, value=v) for name, v in (("lora", 0.50), ("filet", 0.55)) for s in range(3)]
    ranking = rank(table(results))
    assert line(ranking, "filet")["delta_stderr"] == pytest.approx(math.hypot(0.05, 0.05)), "not divided by the seeds"
    assert not ranking["best"].any()
    unknown = rank(table([run("lora"), run("filet", value=0.9, stderr=None)]))
    assert not unknown["best"].any()


def test_a_rate_at_which_seeds_diverged_is_not_chosen_for_the_lucky_one():
    results = [run("lora", 1e-4, seed, value=0.5, loss=1.0) for seed in range(3)]
    results += [run("lora", 1e-2, 0, value=0.9, loss=0.1), run("lora", 1e-2, 1, value=None)]
    chosen = line(rank(table(results)), "lora")
    assert (chosen["lr"], chosen["seeds"], chosen["failed"]) == (1e-4, 3, 1)


@pytest.mark.parametrize(
    ("setting", "titles"),
    [
        ({"alpha": 8}, ("alpha 8", "alpha 16")),
        ({"rslora": True}, ("no rsLoRA", "rsLoRA")),
        ({"target_modules": ("q_proj", "v_proj")}, ("on all-linear", "on q_proj,v_proj")),
    ],
)
def test_training_settings_have_a_table_each_and_the_base_is_in_all(setting, titles):
    results = [run("lora"), run("none", value=0.4), run("none", seed=1, value=None)]
    other = [run("lora", value=0.7, **setting), run("lora", seed=1, value=None, **setting)]
    ranking = rank(table(results + other))
    assert sorted(zip(ranking["method"], ranking["value"], ranking["failed"], strict=True)) == [
        ("lora", 0.5, 0), ("lora", 0.7, 1), ("none", 0.4, 1), ("none", 0.4, 1)
    ]  # fmt: skip
    shown = list(boards(ranking))
    assert [board.title.rsplit(", ", 1)[1] for board in shown] == list(titles)
    assert all(board.labels == ("lora", "none") for board in shown)
    assert "alpha" not in next(boards(rank(table(results)))).title, "named only where it tells tables apart"


def test_full_fine_tuning_stands_beside_every_adapter_of_its_data_and_recipe():
    def full(value: float, **settings: object) -> RunResult:
        return run("full", 1e-5, value=value, rank=0, alpha=0, **settings)

    other = {"recipe": Recipe(steps=80)}
    results = [run("lora", value=0.6), run("pissa", value=0.7), run("lora", value=0.4, rank=16, alpha=32), full(0.9)]
    ranking = rank(table([*results, full(0.8, **other)]))
    tables = {setting: list(group["method"]) for setting, group in ranking.groupby(["rank", "recipe"])}
    assert sorted(tables.values()) == [["full"], ["full", "lora"], ["full", "pissa", "lora"]]
    beside = ranking[(ranking["rank"] == 8) & (ranking["method"] == "full")].iloc[0]
    assert beside["lr"] == 1e-5
    assert beside["delta"] == pytest.approx(0.3)
    assert beside["default_lr"] == 1e-4
    assert rank(table([full(0.9)]))["method"].tolist() == ["full"]


def test_versions_and_calibrations_have_a_line_each_named_where_they_would_look_alike():
    results = [
        run("filet", calibration=CalibrationSpec(samples=16)),
        run("filet", value=0.6, calibration=CalibrationSpec(samples=256)),
        run("pissa"),
        run("pissa", value=0.7, version=2),
        run("lora-da", calibration=CalibrationSpec(samples=8)),
    ]
    ranking = rank(table(results))
    assert ranking["seeds"].tolist() == [1] * 5
    labels = set(next(boards(ranking)).labels)
    assert labels == {
        "filet (16 calibration examples)", "filet (256 calibration examples)",
        "pissa (version 1)", "pissa (version 2)", "lora-da",
    }  # fmt: skip


def test_the_baseline_is_the_newest_plain_lora_not_the_best():
    newest = run("lora", value=0.4, version=3)
    ranking = rank(table([run("lora", value=0.6), newest, run("filet", value=0.5)]))
    assert line(ranking, "filet")["delta"] == pytest.approx(0.1)


def test_the_learning_rate_is_chosen_by_validation_loss_never_by_score():
    results = [
        run("lora", 1e-4, value=0.50, loss=1.0),
        run("lora", 1e-3, value=0.90, loss=2.0),
        run("filet", 1e-4, value=0.60, loss=3.0),
        run("filet", 1e-3, value=0.40, loss=0.5),
    ]
    ranking = rank(table(results))
    assert line(ranking, "lora")[["lr", "value", "default"]].tolist() == [1e-4, 0.50, 0.50]
    assert line(ranking, "filet")[["lr", "value", "default"]].tolist() == [1e-3, 0.40, 0.60]
    assert "at default LR" in [column.name for column in next(boards(ranking)).columns]


def test_without_validation_losses_the_rate_most_methods_share_is_taken():
    results = [run("lora", 1e-4), run("lora", 1e-3, value=0.9), run("filet", 1e-3, value=0.6), run("pissa", 1e-3)]
    ranking = rank(table(results))
    assert set(ranking["lr"]) == {1e-3}


def test_models_and_tasks_are_ranked_apart():
    results = [run(tasks=("arc-easy", "piqa")), run(model="org/other"), run("none", tasks=("arc-easy", "piqa"))]
    ranking = rank(table(results))
    assert len(ranking) == 5
    shown = list(boards(ranking))
    assert [[column.name for column in board.columns[:4]] for board in shown] == [
        ["mean", "vs lora", "arc-easy", "piqa"], ["arc-easy", "vs lora", "LR", "seeds"]
    ]  # fmt: skip


def test_markdown_shows_failures_and_nothing_of_a_hostile_name_survives():
    evil = "x|y\n# <script>alert(1)</script> **b** [l](http://e)"
    results = [run(model=evil), run("filet", seed=3, value=None, reason=evil)]
    runs = table(results)
    text = markdown(rank(runs), failures(runs))
    assert "<script>" not in text
    assert "\n# " not in text
    assert r"\*\*b\*\*" in text
    assert r"x\|y" in text
    assert "diverged" in text
    assert markdown(rank(table([]))) == "No runs yet."


def test_only_so_many_failures_are_listed_in_a_card():
    runs = table([run(seed=seed, value=None) for seed in range(40)])
    text = markdown(rank(runs), failures(runs))
    assert text.count("the loss was not finite") == 30
    assert "… and 10 more" in text


def test_the_base_alone_is_a_ranking():
    [found] = rank(table([run("none")])).to_dict("records")
    assert (found["method"], found["value"], found["seeds"]) == ("none", 0.5, 1)
    assert "not trained" in next(boards(rank(table([run("none")])))).title


def test_options_are_spelt_out_only_where_they_tell_two_lines_apart():
    plain, other = run("filet"), run("filet", seed=1)
    other = other.model_copy(
        update={"spec": other.spec.model_copy(update={"method": MethodSpec(name="filet", options={"power": 2})})}
    )
    labels = set(next(boards(rank(table([plain, other])))).labels)
    assert labels == {"filet", "filet (power=2)"}
    assert set(next(boards(rank(table([other])))).labels) == {"filet"}


def test_frame_of_foreign_rows_ignores_unknown_columns():
    found = frame([{"key": "k", "task": "t", "unknown": 1}])
    assert list(found.columns) == COLUMNS
    assert found["key"].tolist() == ["k"]


def test_a_run_that_was_only_trained_is_neither_a_failure_nor_a_line():
    """A search leaves such runs: shorter ones, and whole ones at rates that were not chosen."""
    scored = [run(lr=lr, seed=seed, loss=2.0 + lr) for lr in (1e-4, 1e-3) for seed in (0, 1)]
    trained = [
        run(lr=1e-2, value=None, loss=1.0).model_copy(update={"status": "ok", "reason": None}),
        run(lr=1e-2, value=None, loss=1.0, recipe=Recipe(steps=10)).model_copy(update={"status": "ok", "reason": None}),
    ]
    runs = table([*scored, *trained])
    assert failures(runs).empty
    (only,) = rank(runs).to_dict("records")
    assert (only["lr"], only["failed"]) == (1e-4, 0)
    assert len(failures(table([run(value=None)]))) == 1


def test_the_default_rate_may_be_known_and_own_seeds_make_another_table():
    results = [run(method, lr, seed) for method in ("lora", "pissa") for lr in (1e-4, 2e-4) for seed in (0, 1)]
    assert set(rank(table(results))["default_lr"]) == {1e-4}
    known = rank(table(results), default_lr=2e-4)
    assert set(known["default_lr"]) == {2e-4}
    fixed = [run("lora", 1e-4, seed, data_seed=7) for seed in (0, 1)]
    assert len(list(boards(rank(table([*results, *fixed]))))) == 2
    assert set(table(fixed)["data_seed"]) == {7}
