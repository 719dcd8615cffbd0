"""The clock of `init_time.py`: what is stopped, what is not started, and which repetitions count."""

import math
import time

import pytest
import torch
from init_stages import Clock


def clock(seconds: float = math.inf) -> Clock:
    return Clock(torch.device("cpu"), lambda line: None, time.perf_counter() + seconds)


def test_a_stage_is_stopped_at_its_limit_and_at_the_end_of_the_run() -> None:
    for seconds, limit in ((math.inf, 0.3), (0.3, None), (0.3, 60.0)):
        running = clock(seconds)
        assert running.run("peft", "slow", 0, lambda: time.sleep(20), limit) is None
        row = running.row("peft", "slow")
        assert row is not None and row.status == "stopped"
        assert row.seconds == [pytest.approx(0.3, abs=0.25)]


def test_what_has_no_time_left_is_on_record_as_not_measured() -> None:
    running = clock(-1)
    assert running.run("calibrate", "filet", 64, lambda: 1 / 0) is None
    row = running.row("calibrate", "filet", 64)
    assert row is not None and (row.status, row.seconds) == ("not measured", [])
    assert "over" in row.note and row.record()["status"] == "not measured"


def test_a_repetition_that_is_cut_off_does_not_spoil_those_before_it() -> None:
    running = clock(0.5)
    assert running.run("calibrate", "filet", 64, lambda: 7) == 7
    assert running.run("calibrate", "filet", 64, lambda: time.sleep(20)) is None
    assert running.run("calibrate", "filet", 64, lambda: 8) is None  # the run is over
    row = running.row("calibrate", "filet", 64)
    assert row is not None and row.status == "ok" and len(row.seconds) == 1 and row.median < 0.4
