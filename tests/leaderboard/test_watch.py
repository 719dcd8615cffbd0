"""A refresh against the last one: real regressions are reported, noise and what was only kept are not."""

import json

import numpy as np
import pytest
from scipy import stats

from hubinit.leaderboard import watch_text
from hubinit.leaderboard.items import Answered
from hubinit.leaderboard.table import frame, table
from hubinit.leaderboard.watch import Report, watch
from tests.leaderboard.handed_in import command, hand_in

QUESTIONS = 200


def board(root, chance=0.5, *, seeds=(0, 1, 2), draw=0, created="2026-11-01T00:00:00Z", **changes):
    """Rows of plain LoRA and values by question: each answer is right with this chance."""
    rows, values = table([hand_in(root, seed=seed) for seed in seeds]), {}
    rows = rows[rows["primary"].astype(bool)].reset_index(drop=True)
    rows["created"] = created
    for place, seed in enumerate(rows["seed"]):
        right = (np.random.default_rng([draw, seed]).random(QUESTIONS) < chance).astype(float)
        name = f"{draw:032x}{seed:032x}"
        rows.loc[place, ["value", "n", "items"]] = [right.mean(), QUESTIONS, name]
        values[name, "acc"] = Answered("q", right)
    for name, value in changes.items():
        rows[name] = value
    return frame(rows.astype(object).where(rows.notna(), None).to_dict("records")), values


def compared(old, new):
    return watch(old[0], new[0], old[1], new[1])


def test_the_same_leaderboard_has_nothing_to_report(tmp_path):
    one = board(tmp_path)
    report = compared(one, one)
    assert (report.compared, report.added, report.findings, report.changes) == (1, 0, (), ())


def test_a_lower_score_is_reported_with_its_paired_interval(tmp_path):
    old, new = board(tmp_path, 0.7), board(tmp_path, 0.4, draw=1, created="2026-11-02T00:00:00Z")
    (found,) = compared(old, new).findings
    assert (found.kind, found.worse, found.seeds) == ("score", True, 3)
    drop = np.array(
        [new[1][key].values - old[1][other].values for key, other in zip(sorted(new[1]), sorted(old[1]), strict=True)]
    )
    assert found.change == pytest.approx(drop.mean())
    assert found.low < drop.mean() < found.high < 0
    (better,) = compared(new, old).findings
    assert better.worse is False
    told = found.model_copy(update={"metric": "score", "change": -0.5, "old": 6.5, "new": 6.0, "low": None})
    assert "6.5 · 6 · -0.5 · " in next(
        line for line in watch_text.lines(Report(compared=1, added=0, findings=(told,), changes=())) if "WORSE" in line
    )


def test_chance_alone_is_seldom_reported(tmp_path):
    """Of 100 refreshes that only answer anew, at most 5 % are expected to be reported; 11 would be one chance in a hundred."""
    old = board(tmp_path, 0.5)
    alarms = 0
    for draw in range(1, 101):
        new = old[0].copy(), {}
        for place, seed in enumerate(new[0]["seed"]):
            right = (np.random.default_rng([draw, seed]).random(QUESTIONS) < 0.5).astype(float)
            new[0].loc[place, ["value", "items"]] = [right.mean(), f"{draw:032x}{seed:032x}"]
            new[1][new[0].loc[place, "items"], "acc"] = Answered("q", right)
        alarms += bool(compared(old, new).findings)
    assert alarms <= stats.binom.ppf(0.99, 100, 0.05)


@pytest.mark.parametrize(
    ("column", "old", "new", "kind"),
    [
        ("seconds_train", [100.0, 101.0, 99.0], [130.0, 131.0, 129.5], "train seconds"),
        ("seconds_initialise", [10.0, 10.1, 9.9], [20.0, 20.5, 19.9], "init seconds"),
        ("peak_memory_bytes", [1000, 1001, 1000], [1100, 1101, 1102], "peak memory"),
        ("adapter_bytes", [1000, 1000, 1000], [1001, 1001, 1001], "adapter bytes"),
        ("validation_loss", [1.0, 1.1, 1.2], [1.21, 1.3, 1.41], "validation loss"),
    ],
)
def test_slower_bigger_and_higher_losses(tmp_path, column, old, new, kind):
    before, after = board(tmp_path, **{column: old}), board(tmp_path, **{column: new})
    (found,) = compared(before, after).findings
    assert (found.kind, found.worse) == (kind, True)
    assert not compared(after, before).worse


def test_times_within_their_noise_are_no_regression(tmp_path):
    before = board(tmp_path, seconds_train=[100.0, 150.0, 120.0])
    assert compared(before, board(tmp_path, seconds_train=[150.0, 120.0, 115.0])).findings == ()
    assert compared(before, board(tmp_path, seconds_train=[105.0, 157.0, 126.0])).findings == ()  # 5 %, however sure
    one, other = board(tmp_path, seeds=(0,), seconds_train=100.0), board(tmp_path, seeds=(0,), seconds_train=140.0)
    assert compared(one, other).findings == ()  # one seed: its noise is unknown


def test_on_another_machine_times_are_not_compared_and_the_change_is_named(tmp_path):
    before = board(tmp_path, hardware='{"gpu":"A"}', versions='{"torch":"2.0"}', seconds_train=100.0)
    after = board(tmp_path, hardware='{"gpu":"B"}', versions='{"torch":"3.0"}', seconds_train=300.0, revision="e" * 40)
    report = compared(before, after)
    assert report.findings == ()
    assert [(one.what, one.old, one.new, one.lines) for one in report.changes] == [
        ("gpu", "A", "B", 1),
        ("revision", "a" * 40, "e" * 40, 1),
        ("torch", "2.0", "3.0", 1),
    ]


def test_lines_that_are_gone_and_runs_that_fail_now(tmp_path):
    old, new = board(tmp_path), board(tmp_path, method="pissa")
    (gone,) = compared(old, new).findings
    assert (gone.kind, gone.worse, gone.method) == ("gone", True, "lora")
    assert compared(old, new).added == 1
    failed = old[0].head(1).copy()
    for name in ("task", "metric", "primary", "value", "n", "shots", "items"):
        failed[name] = None
    failed[["status", "reason"]] = ["failed", "out of memory <b>"]
    report = watch(old[0], frame([*_records(old[0].iloc[1:]), *_records(failed)]), old[1], old[1])
    assert [one.kind for one in report.findings] == ["failed"]
    assert "had a score" in report.findings[0].reason
    assert "<b>" not in watch_text.markdown(report)
    assert any("WORSE: failed" in line for line in watch_text.lines(report))


def _records(rows):
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def test_the_command_says_it_by_its_exit_code(tmp_path, capsys):
    hand_in(tmp_path / "old")
    hand_in(tmp_path / "new", adapter_bytes=10)
    hand_in(tmp_path / "worse", adapter_bytes=11)
    assert command("compare", str(tmp_path / "new"), str(tmp_path / "new")) == 0
    assert "Nothing is worse beyond its noise: 1 lines compared" in capsys.readouterr().out
    report = tmp_path / "report.md"
    arguments = [
        "compare",
        str(tmp_path / "new"),
        str(tmp_path / "worse"),
        "--json",
        "--markdown",
        str(report),
    ]
    assert command(*arguments) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["worse"], found["findings"][0]["kind"]) == (True, "adapter bytes")
    assert "| worse | adapter bytes |" in report.read_text()
