"""`hubinit status` and `hubinit logs` as they are typed."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hubinit.cli import app, logs, status
from hubinit.errors import HubinitError
from hubinit.records import Provenance, ResultStore, RunResult
from hubinit.runs.job import Finished, Progress, Started
from hubinit.runs.lease import leased
from hubinit.runs.plan import PlannedRun
from hubinit.runs.progress import Recorder, recorded
from hubinit.runs.worker import Worker
from hubinit.specs import MethodSpec, ModelSpec, RunSpec

SPECS = [
    RunSpec(model=ModelSpec(id="org/base"), method=MethodSpec(name="lora"), rank=2, alpha=4, seed=seed)
    for seed in range(3)
]


def finish(store: Path, recorder: Recorder, spec: RunSpec, state: str, reason: str | None = None) -> None:
    made = Provenance(versions={}, hardware={}, command="", created="")
    ResultStore(store).write(RunResult(key=spec.key, spec=spec, status=state, reason=reason, provenance=made))
    recorder(Finished(key=spec.key, status=state, reason=reason))


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Recorder]:
    """Of three runs one failed, one is being trained, one waits."""
    with recorded(tmp_path) as recorder:
        recorder.add([PlannedRun(spec, "arc-easy", ()) for spec in SPECS])
        finish(tmp_path, recorder, SPECS[0], "failed", "a [gate] " + 30 * "and more ")
        recorder(Started(key=SPECS[1].key, place="GPU 1"))
        recorder(Progress(key=SPECS[1].key, stage="train", step=2, steps=8, loss=1.25))
        yield recorder


def printed(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_a_status_names_what_goes_on_what_failed_and_what_is_left(sweep: Recorder, tmp_path: Path) -> None:
    text = printed("status", tmp_path)
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("1 running, 0 done, 1 failed, 1 left")
    assert [SPECS[1].key[:8], "1", "GPU", "1", "0:00", "train", "2/8", "loss", "1.250"] in lines
    assert " ".join(text.split()).count("and more") == 30, "a reason is not cut"
    assert "a [gate]" in text
    assert [SPECS[2].key[:8], "2", "left"] in lines
    assert f"hubinit logs {SPECS[0].key[:8]} --out {tmp_path}" in "".join(text.splitlines())


def test_scripts_get_every_run(sweep: Recorder, tmp_path: Path) -> None:
    whole = json.loads(printed("status", tmp_path, "--json"))
    assert (whole["counts"], whole["going_on"]) == ({"running": 1, "failed": 1, "left": 1}, True)
    assert [one["alive"] for one in whole["sweeps"]] == [True]
    assert whole["seconds_left"] >= 0
    facts = ("state", "method", "seed", "learning_rate", "place", "stage", "step", "steps", "loss")
    run = {name: whole["runs"][1][name] for name in facts}
    assert list(run.values()) == ["running", "lora r2", 1, 0.0, "GPU 1", "train", 2, 8, 1.25]
    assert whole["runs"][0]["reason"].startswith("a [gate]")


def test_who_watches_sees_each_change_until_nothing_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looked = []
    with recorded(tmp_path) as recorder:
        recorder.add([PlannedRun(spec, "arc-easy", ()) for spec in SPECS[:1]])
        looking = threading.Thread(target=lambda: looked.append(status.follow(tmp_path, as_json=False, every=0.01)))
        looking.start()
        recorder(Started(key=SPECS[0].key, place="GPU 1"))
        wait_until(lambda: "1 running" in capsys_text(capsys))
        finish(tmp_path, recorder, SPECS[0], "ok")
        wait_until(lambda: "1 done" in capsys_text(capsys))
        assert looking.is_alive(), "the sweep may do more"
    looking.join(10)
    assert looked == [None]


SEEN: list[str] = []


def capsys_text(capsys: pytest.CaptureFixture[str]) -> str:
    SEEN.append(capsys.readouterr().out)
    return SEEN[-1]


def wait_until(condition: Any) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(SEEN)


def test_a_log_is_found_by_the_beginning_of_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "0123abcd.log").write_bytes(b"one\x1b[2J\r\nprogress 1\rprogress 2\n\xff\nhf_" + b"a" * 34)
    (folder / "0123abcd.rank1.log").write_text("of rank 1\n")
    (folder / "0199.log").write_text("other\n")
    assert printed("logs", "0123", "--out", tmp_path).splitlines() == ["one[2J", "progress 2", "\ufffd", "[token]"]
    assert printed("logs", "0123abcd.rank1", "--out", tmp_path) == "of rank 1\n"
    with pytest.raises(HubinitError, match=r"'01' is the beginning of 2 keys \(0123abcd, 0199\)"):
        logs.find_log(tmp_path, "01")
    for key in ("7", "", "*"):
        with pytest.raises(HubinitError, match="No log in"):
            logs.find_log(tmp_path, key)


def test_a_log_is_followed_until_nobody_does_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "0123.log"
    log.write_text("first\nhal")
    with leased(tmp_path, "0123"):
        following = threading.Thread(target=lambda: logs.print_log(tmp_path, "01", follow=True))
        following.start()
        wait_until(lambda: "first" in capsys_text(capsys))
        with log.open("a") as more:
            more.write("f a line\n")
        assert following.is_alive()
    following.join(10)
    assert not following.is_alive()
    assert capsys.readouterr().out == "half a line\n", "a line is printed once it is whole"


def test_a_worker_notes_each_stage_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Any] = []
    worker = Worker(heard.append)
    for step in range(50):
        worker.emit(Progress(key="k", stage="train", step=step, steps=50, loss=0.5))
    worker.emit(Finished(key="k", status="failed", reason="a gate"))
    assert len(heard) == 51
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["train 0/50 loss 0.500", "failed: a gate"]
