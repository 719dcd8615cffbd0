"""The leaderboard's files on tiny folders of results: pairing, what is rejected, rebuilding, and what follows from them."""

import json
import math
import os
import shlex

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from hubinit.cli import main
from hubinit.cli.boards import command_of
from hubinit.errors import HubinitError
from hubinit.leaderboard.build import CACHE, ITEMS, RUNS, SUMMARY, VERSION_KEY, build, open_items, open_leaderboard
from hubinit.leaderboard.curves import Curve, read_curve, steps_to_reach, write_curve
from hubinit.leaderboard.export import export
from hubinit.leaderboard.recommend import recommend
from hubinit.leaderboard.reported import reported
from hubinit.leaderboard.summary import SCHEMA
from hubinit.leaderboard.sweeps import Runs, name_of, records
from hubinit.leaderboard.table import frame, rows
from hubinit.records import Cost, CurvePoint, Diagnostics, Forgetting, Item, Provenance, ResultStore, RunResult, Score
from hubinit.specs import DataSpec, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec

QUESTIONS = 60
EVALUATION = EvalSpec(task="arc-easy", revision="d" * 40)
TEN_STEPS = Recipe(steps=10)


def answers(seed, chance):
    return (np.random.default_rng(seed).random(QUESTIONS) < chance).astype(float)


def write(root, method, seed, right, *, loss=1.0, lr=1e-3, seconds=10.0, model="org/model", recipe=TEN_STEPS):
    """A finished run with item records; its training loss falls from 3 to `loss`."""
    spec = RunSpec(
        model=ModelSpec(id=model, revision="a" * 40, dtype="float32"),
        method=MethodSpec(name=method),
        rank=8 if recipe else 0,
        alpha=16 if recipe else 0,
        data=DataSpec(tasks=("arc-easy",)) if recipe else None,
        recipe=recipe,
        learning_rate=lr if recipe else 0.0,
        seed=seed,
    )
    store = ResultStore(root)
    score = Score(
        task="arc-easy", metric="acc", value=right.mean(), n=len(right), stderr=0.06, primary=True, eval=EVALUATION
    )
    items = [Item(id=str(i), prompt_hash="0" * 16, values={"acc": one}) for i, one in enumerate(right)]
    scores = store.write_items(spec.key, [score], items)
    return store.write(
        RunResult(
            key=spec.key,
            spec=spec,
            status="ok",
            scores=tuple(scores),
            validation_loss=loss,
            costs={"initialise": Cost(seconds=1.0), "train": Cost(seconds=seconds, peak_memory_bytes=2**30)},
            curve=tuple(CurvePoint(step=step, loss=3 + (loss - 3) * step / 10) for step in range(1, 11)),
            provenance=Provenance(versions={}, hardware={}, command="x", created="2026-11-01T00:00:00Z"),
        )
    )


@pytest.fixture
def results(tmp_path):
    """Plain LoRA, and two that are 25 points better and the same, over three seeds."""
    root = tmp_path / "results"
    for seed in range(3):
        plain = answers(seed, 0.4)
        write(root, "lora", seed, plain)
        write(root, "filet", seed, np.where(answers(9 + seed, 0.45), 1.0, plain), loss=0.8 + seed / 100, seconds=20.0)
        write(root, "pissa", seed, plain, loss=1.1)
    return root


def measured(board, method):
    rows = board.summary[(board.summary["origin"] == "measured") & (board.summary["method"] == method)]
    return rows.iloc[0]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CACHE}


def test_methods_are_paired_question_by_question_and_marked(results, tmp_path):
    board = build([("results", results)], [], tmp_path / "board")
    filet, pissa, lora = (measured(board, method) for method in ("filet", "pissa", "lora"))
    assert bool(filet["paired"]) and filet["pairs"] == 3
    assert filet["mark"] == "better" and filet["delta_low"] > 0 and filet["p_corrected"] < 0.05
    assert (filet["place"], lora["place"], pissa["place"]) == (1, 2, 2)
    assert filet["best_share"] == pytest.approx(1)
    assert pissa["delta"] == 0 and pd.isna(pissa["mark"]), "the same answers"
    # the losses over three seeds, by scipy
    found = stats.ttest_1samp([-0.2, -0.19, -0.18], 0).confidence_interval()
    assert (filet["loss_low"], filet["loss_high"]) == pytest.approx((found.low, found.high))
    # from 3 to 0.8 in ten steps, LoRA's last loss of 1 is passed at step 10 (0.8 + 0.22 at step 9 is above)
    assert filet["reach_steps"] == 10 and filet["reach_seconds"] == pytest.approx(1 + 20)
    assert lora["reach_steps"] == 10 and math.isnan(pissa["reach_steps"])
    assert set(filet["keys"].split()) == set(board.runs[board.runs["method"] == "filet"]["key"])


def test_a_line_of_the_summary_keeps_its_optimiser(results, tmp_path):
    for seed in range(3):
        write(results, "lora", seed, answers(seed, 0.4), recipe=Recipe(steps=10, optimiser="lora+"))
    write(results, "none", 0, answers(0, 0.2), recipe=None)
    board = build([("results", results)], [], tmp_path / "board")
    for summary in (board.summary, open_leaderboard(tmp_path / "board").summary):
        lines = summary[summary["origin"] == "measured"]
        assert sorted(lines.loc[lines["method"] == "lora", "optimiser"]) == ["adamw", "lora+"]
        assert lines.loc[lines["method"] == "none", "optimiser"].isna().all()
    runs = Runs(records(board.runs))
    assert all(len(runs.by_line[name_of(line)]) == 3 for line in records(lines[lines["method"] == "lora"]))


def test_a_rebuild_is_byte_equal_whatever_came_before_and_reads_only_what_is_new(results, tmp_path):
    out = tmp_path / "board"
    first = build([("results", results)], [], out)
    assert (first.read, first.found) == (9, 9)
    before = contents(out)
    assert build([("results", results)], [], out).read == 0
    assert contents(out) == before
    write(results, "lora-da", 0, answers(30, 0.5))
    assert build([("results", results)], [], out).read == 1
    build([("results", results)], [], tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew") != before


def test_what_is_wrong_is_left_out_with_its_reason_and_stops_nothing(results, tmp_path):
    folders = sorted((results / "runs").iterdir())
    (folders[0] / "result.json").write_text("{")
    raw = json.loads((folders[1] / "result.json").read_text())
    raw["schema_version"] = 99
    (folders[1] / "result.json").write_text(json.dumps(raw))
    next((folders[2] / "items").iterdir()).write_bytes(b"PAR1")
    twice = json.loads((folders[3] / "result.json").read_text())
    twice["scores"][0]["value"] = 0.99
    other = tmp_path / "other" / "runs" / folders[3].name
    other.mkdir(parents=True)
    (other / "result.json").write_text(json.dumps(twice))
    board = build([("a", results), ("b", tmp_path / "other")], [], tmp_path / "board")
    assert board.runs["key"].nunique() == 7
    reasons = {(one.source, one.place): one.reason for one in board.rejected}
    assert "a newer hubinit" in reasons["a", f"runs/{folders[1].name}/result.json"]
    assert ("a", f"runs/{folders[0].name}/result.json") in reasons
    assert "another value" in reasons["b", f"{folders[3].name} arc-easy"]
    assert any("not paired by question" in reason for reason in reasons.values())
    assert str(tmp_path) not in (tmp_path / "board" / "rejected.jsonl").read_text()


def test_older_files_are_read_and_newer_ones_refused(results, tmp_path):
    out = tmp_path / "board"
    board = build([("results", results)], [], out)
    again = open_leaderboard(out)
    assert again.runs.equals(board.runs) and again.summary.equals(board.summary)
    old = pq.read_table(out / RUNS).drop_columns(["curve", "items"]).replace_schema_metadata(None)
    pq.write_table(old, out / RUNS)
    assert open_leaderboard(out).runs["curve"].isna().all()
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({VERSION_KEY: b"99"}), out / SUMMARY)
    with pytest.raises(HubinitError, match="newer hubinit"):
        open_leaderboard(out)
    for other, reason in (({"x": [1]}, "no column key"), ({"key": [1], "task": [2.5]}, "not a leaderboard's")):
        pq.write_table(pa.table(other), out / RUNS)
        with pytest.raises(HubinitError, match=reason):
            open_leaderboard(out)
        pq.write_table(pa.table(other), out / ITEMS)
        with pytest.raises(HubinitError, match="other columns"):
            open_items(out)


def test_it_recommends_what_is_better_beyond_chance_else_what_is_cheap(results, tmp_path):
    summary = build([("results", results)], [], tmp_path / "board").summary
    best = recommend(summary, "org/model", "arc-easy")
    assert (best.method, best.lr, best.sure) == ("filet", 1e-3, "high")
    cheap = recommend(summary, "org/model", "arc-easy", seconds=15)
    assert cheap.method in ("lora", "pissa") and cheap.sure == "low"
    assert cheap.left_out == {"filet": "21 s"}
    assert "another model" in recommend(summary, "org/unknown", "arc-easy").reasons[0]
    with pytest.raises(HubinitError, match="budget"):
        recommend(summary, "org/model", "arc-easy", memory=2**20)
    with pytest.raises(HubinitError, match="arc-easy"):
        recommend(summary, "org/model", "arc-eazy")


def line(method, place, value, seconds=10.0, **more):
    """A line of the summary over three seeds."""
    known = {
        "origin": "measured",
        "model": "org/model",
        "task": "mt-bench",
        "metric": "score",
        "method": method,
        "place": place,
    }
    known |= {"value": value, "lr": 1e-3, "default_lr": 1e-3, "seeds": 3, "n": 80, "train_seconds": seconds}
    return known | {"keys": "0" * 16} | more


def test_a_recommendation_is_not_surer_than_the_tests_behind_it():
    """Places are tested against the method that leads them; where that one is too dear, nobody tested the others."""
    told = [line("eva", 1, 7.0, 99), line("pissa", 2, 6.1, 99), line("lora", 2, 6.0), line("olora", 4, 5.9)]
    found = recommend(frame(told, SCHEMA), "org/model", "mt-bench", seconds=50)
    assert (found.method, found.sure) == ("lora", "low")
    assert "others may be as good" in " ".join(found.reasons)
    base = line("none", 1, 7.0, lr=None, default_lr=None, seeds=1)
    assert (
        recommend(frame([base, line("lora", 1, 6.9), line("eva", 3, 1.0)], SCHEMA), "org/model", "mt-bench").sure
        == "low"
    )
    alone = recommend(frame([line("lora", 1, 6.9), line("eva", 2, 1.0)], SCHEMA), "org/model", "mt-bench")
    assert (alone.method, alone.sure) == ("lora", "high")


def test_a_single_seed_has_no_place_and_is_not_taken_for_as_good(results, tmp_path):
    write(results, "olora", 0, answers(0, 0.0), seconds=1.0)
    board = build([("results", results)], [], tmp_path / "board")
    assert pd.isna(measured(board, "olora")["place"]) and measured(board, "filet")["place"] == 1
    assert recommend(board.summary, "org/model", "arc-easy").method == "filet"
    write(tmp_path / "single", "lora", 0, answers(0, 0.5))
    write(tmp_path / "single", "eva", 0, answers(1, 0.5), seconds=20)
    alone = build([("single", tmp_path / "single")], [], tmp_path / "alone")
    assert measured(alone, "lora")[["place", "mark"]].isna().all()
    found = recommend(alone.summary, "org/model", "arc-easy")
    assert (found.method, found.sure) == ("lora", "low") and "No score was tested" in " ".join(found.reasons)


def test_a_loss_is_lower_beyond_chance_after_correction_only():
    low = {"loss_delta": -0.1, "loss_low": -0.19, "loss_high": -0.01, "validation_loss": 1.0}
    for loss_p, sure in ((0.2, "low"), (0.01, "moderate")):
        told = [line("lora", 1, 6.0), line("eva", 1, 6.1, 20.0, loss_p=loss_p, **low)]
        found = recommend(frame(told, SCHEMA), "org/model", "mt-bench")
        assert (found.method, found.sure) == (("eva" if sure == "moderate" else "lora"), sure)


def test_ratings_are_told_on_their_own_scale():
    better = line("eva", 1, 6.5, mark="better", delta=0.6, delta_low=0.5, delta_high=0.8)
    found = recommend(frame([better, line("lora", 2, 5.9)], SCHEMA), "org/model", "mt-bench")
    assert "+0.5 to +0.8 points" in found.reasons[-1]


def test_the_recommended_command_is_one_of_words_whatever_the_method_is_called(tmp_path):
    write(tmp_path / "results", "lora; touch /tmp/x", 0, answers(0, 0.5))
    board = build([("results", tmp_path / "results")], [], tmp_path / "board")
    command = command_of(recommend(board.summary, "org/model", "arc-easy"), "org/other", board)
    assert shlex.split(command)[2:5] == ["org/other", "--method", "lora; touch /tmp/x"]


def test_exports_hold_reported_rows_apart_and_no_formulas(tmp_path):
    for seed in range(2):
        write(tmp_path / "results", "lora", seed, answers(seed, 0.5), model="meta-llama/Meta-Llama-3-8B")
        write(tmp_path / "results", "=HYPERLINK(1)", seed, answers(seed, 0.5), model="meta-llama/Meta-Llama-3-8B")
    board = build([("results", tmp_path / "results")], [], tmp_path / "board")
    text = export(board, "md")
    assert text.index("Reported by papers") > text.index("| lora |")
    assert "filet-2605.01046, table1" in text
    assert "'=HYPERLINK" in export(board, "csv")
    found = json.loads(export(board, "json"))["summary"]
    assert {row["origin"] for row in found} == {"measured", "reported"}
    assert sum(row["origin"] == "reported" for row in found) == len(reported()) == 367


def test_reported_shares_are_between_0_and_1_and_every_row_has_a_source():
    for row in reported():
        assert row["source"] and row["method"] and row["task"]
        assert row["metric"] not in ("accuracy", "pass@1") or 0 <= row["value"] <= 1


def test_a_curve_is_thinned_to_means_and_says_when_a_loss_is_reached():
    points = [CurvePoint(step=step, loss=100.0 - step) for step in range(1, 101)]
    curve = read_curve(write_curve(points))
    assert curve is not None and curve.step == tuple(range(2, 101, 2))
    assert curve.loss[0] == pytest.approx((99 + 98) / 2)
    assert steps_to_reach(Curve((1, 2, 3), (3.0, 1.0, 2.0)), 2.0) == 2
    assert steps_to_reach(curve, -1.0) is None
    assert write_curve([]) is None and read_curve('{"step": 3}') is None


def test_forgetting_is_the_difference_that_the_diagnostics_measured(tmp_path):
    texts = Forgetting(dataset="wiki", revision=None, split="test", texts=1, tokens=9, before=2.0, after=2.5)
    result = write(tmp_path, "lora", 0, answers(0, 0.5))
    assert rows([result])[0]["forgetting"] is None
    told = result.model_copy(update={"diagnostics": Diagnostics(forgetting=texts)})
    assert rows([told])[0]["forgetting"] == 0.5


def test_the_commands_build_export_and_recommend(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))

    def hubinit(*words):
        monkeypatch.setattr("sys.argv", ["hubinit", "leaderboard", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capsys.readouterr()

    out = tmp_path / "board"
    code, printed = hubinit("build", results, "--out", out, "--json")
    assert code == 0 and json.loads(printed.out)["runs"] == 9
    code, printed = hubinit("recommend", out, "--model", "org/model", "--task", "arc-easy", "--json")
    found = json.loads(printed.out)
    assert (code, found["method"], found["sure"]) == (0, "filet", "high")
    assert found["rank"] == 8 and isinstance(found["rank"], int)
    words = "hubinit train org/model --method filet --task arc-easy --lr 0.001 --seed 0 --rank 8 --dtype float32"
    assert found["command"].startswith(f"{words} --set recipe.steps=10 "), "as it was measured"
    code, printed = hubinit("export", results, "--format", "md")
    assert code == 0 and "| filet |" in printed.out
    code, printed = hubinit("--out", results)
    assert code == 0 and "place" in printed.out
    code, printed = hubinit("build", tmp_path / "nowhere", "--out", out)
    assert code == 1 and "neither a folder" in printed.err
