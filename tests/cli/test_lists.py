"""What `hubinit tasks` says."""

import json

import pytest

from hubinit.cli.lists import list_tasks
from hubinit.errors import HubinitError
from hubinit.tasks import TASKS


def test_one_task_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks("winogrande-gen")
    lines = dict(line.partition(": ")[::2] for line in capsys.readouterr().out.splitlines())
    assert (lines["train rows"], lines["test rows"], lines["needs"]) == ("63238", "1267", "-")
    assert "first match of option1|option2" in lines["  acc"]
    assert lines["  beams"] == "4"
    assert "arXiv 2304.01933" in lines["source"]


def test_the_list_fits_80_columns_with_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    text = "\n".join(lines)
    for task in TASKS.values():
        assert f"\n{task.name} " in text
        assert f"\n  {task.dataset}" in text
        assert not task.needs or f"needs {task.needs}" in text
    assert "hubinit[math] for math-verify" in text


def test_a_suite_is_a_list_and_an_unknown_task_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks("image")
    text = capsys.readouterr().out
    assert "73,257" in text, "of SVHN"
    assert "unknown: nobody has established" in text, "the rows of Cars"
    assert "boolq" not in text
    with pytest.raises(HubinitError, match="did you mean arc-easy"):
        list_tasks("arc-esay")


def test_scripts_get_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks(json_=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["tasks"].keys() == TASKS.keys()
    math, svamp = printed["tasks"]["math"], printed["tasks"]["svamp"]
    assert (math["train rows"], math["test rows"], math["metric"]) == (7500, 5000, "hendrycks")
    assert math["needs"] == "hubinit[math] for math-verify"
    assert (svamp["test rows"], svamp["data set"]) == (None, "ChilleD/SVAMP")
    assert all(facts["source"] and facts["how"] for facts in printed["tasks"].values())
