"""What `hubinit tasks` says."""

import pytest

from hubinit.cli.lists import list_tasks
from hubinit.errors import HubinitError


def test_one_task_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks("winogrande-gen")
    lines = dict(line.partition(": ")[::2] for line in capsys.readouterr().out.splitlines())
    assert (lines["train rows"], lines["test rows"], lines["needs"]) == ("63238", "1267", "-")
    assert "first match of option1|option2" in lines["  acc"]
    assert lines["  beams"] == "4"
    assert "arXiv 2304.01933" in lines["source"]


def test_a_suite_is_a_table_and_an_unknown_task_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    list_tasks("image")
    text = capsys.readouterr().out
    assert "73,257" in text, "of SVHN"
    assert "?" in text, "nobody has pinned the rows of Cars"
    assert "boolq" not in text
    with pytest.raises(HubinitError, match="did you mean arc-easy"):
        list_tasks("arc-esay")
