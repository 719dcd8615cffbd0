"""Which runs share a table: those of a protocol that gives a method its own alpha, or the rank of equal parameters."""

import random

import pandas as pd
import pytest

from hubinit.leaderboard.boards import boards
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.recommend import recommend
from hubinit.leaderboard.settings import NO_GUEST
from hubinit.leaderboard.summary import as_ranking, summarise
from hubinit.leaderboard.sweeps import Runs, records
from hubinit.leaderboard.table import table
from hubinit.specs import Recipe
from tests.leaderboard.test_ranking import run

FROZEN = Recipe(steps=40, optimiser="frozen-a")


def sized(parameters, *given, **settings):
    return run(*given, **settings).model_copy(update={"trainable_parameters": parameters})


def tables(results):
    """Each table as its rank and alpha, and the lines with what of these is their own."""
    found = {}
    for row in rank(table(results)).to_dict("records"):
        own = tuple(None if pd.isna(row[name]) else row[name] for name in NO_GUEST)
        found.setdefault((row["rank"], row["alpha"]), set()).add((row["method"], row["optimiser"], *own))
    return found


def test_a_method_with_the_alpha_of_its_paper_is_compared_with_plain_lora():
    results = [run("lora", seed=seed, value=0.5) for seed in (0, 1)]
    results += [run("milora", seed=seed, value=0.6, alpha=8) for seed in (0, 1)]
    results += [run("milora", seed=3, value=None, alpha=8), run("none", value=0.2)]
    ranking = rank(table(results))
    first = ranking.iloc[0]
    assert (first["method"], first["rank"], first["alpha"], first["own_alpha"]) == ("milora", 8, 16, 8)
    assert pd.isna(first["own_rank"])
    assert first["delta"] == pytest.approx(0.1)
    assert (first["pairs"], first["failed"]) == (2, 1)
    (board,) = boards(ranking)
    assert board.labels == ("milora (alpha 8)", "lora", "none")


def test_two_alphas_that_each_have_plain_lora_stay_two_tables():
    results = [run("lora"), run("pissa"), run("lora", alpha=8), run("pissa", alpha=8, value=0.7)]
    assert tables(results) == {
        (8, alpha): {("lora", "adamw", None, None), ("pissa", "adamw", None, None)} for alpha in (8, 16)
    }
    assert tables([run("pissa"), run("milora", alpha=8)]).keys() == {(8, 8), (8, 16)}, (
        "no lora, nothing to compare with"
    )
    of_both = [*results, run("milora", alpha=4), run("dora")]
    assert ("milora", "adamw", None, 4.0) in tables(of_both)[8, 16], "the table with more runs"


def test_a_rank_of_equal_parameters_is_a_guest_and_any_other_rank_is_not():
    lora = [sized(1000, "lora"), sized(1000, "pissa")]
    equal = sized(1060, "mica", rank=17, alpha=34)
    frozen = [sized(940, name, rank=15, alpha=30, recipe=FROZEN) for name in ("lora", "lora-da")]
    far = sized(1070, "mica", rank=18, alpha=36)
    unknown = run("mica", rank=19, alpha=38)
    found = tables([*lora, equal, *frozen, far, unknown])
    assert found == {
        (8, 16): {
            ("lora", "adamw", None, None),
            ("pissa", "adamw", None, None),
            ("mica", "adamw", 17, 34.0),
            ("lora", "frozen-a", 15, 30.0),
            ("lora-da", "frozen-a", 15, 30.0),
        },
        (18, 36): {("mica", "adamw", None, None)},
        (19, 38): {("mica", "adamw", None, None)},
    }, "6.25 % is half a rank of 8"
    other = [sized(1000, "mica", rank=17, alpha=34, recipe=Recipe(steps=80))]
    assert (17, 34) in tables([*lora, *other]), "it was trained otherwise"


def test_a_guest_is_found_with_its_runs_and_recommended_with_its_own_rank():
    results = [run("lora", seed=seed, value=0.3 + 0.01 * seed) for seed in range(3)]
    results += [
        run("milora", lr, seed, value=0.6, rank=8, alpha=8, loss=lr) for lr in (1e-4, 1e-3) for seed in range(3)
    ]
    results += [sized(1000, "lora", seed=4, value=0.3), sized(1010, "mica", seed=4, value=0.9, rank=17, alpha=34)]
    runs = table(results)
    summary = summarise(rank(runs))
    lines = {line["method"]: line for line in records(as_ranking(summary))}
    found = Runs(records(runs))
    assert [rate.lr for rate in found.sweep(lines["milora"])] == [1e-4, 1e-3], "also the rate that was not chosen"
    assert [row["rank"] for row in found.behind(lines["mica"])] == [17]
    best = recommend(summary, "org/model", "arc-easy")
    assert (best.method, best.rank) in {("milora", 8), ("mica", 17)}
    assert best.evidence["rank"] == best.rank


def test_the_order_of_the_rows_makes_no_difference():
    results = [sized(1000, "lora"), run("lora", seed=1), run("milora", alpha=8), sized(990, "mica", rank=16, alpha=32)]
    results += [run("lora", alpha=4), run("pissa"), run("dora", alpha=1, value=0.3)]
    ranking = rank(table(results))
    for seed in range(5):
        random.Random(seed).shuffle(results)
        pd.testing.assert_frame_equal(rank(table(results)), ranking)
