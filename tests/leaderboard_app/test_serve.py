"""`hubinit leaderboard serve` without what it needs."""

import pytest

from hubinit.cli import main, serving
from tests.leaderboard_app.results import write_results


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "NEEDED", ("matplotlib", "no_such_package"))
    root = write_results(tmp_path / "r", methods={"lora": 0.4}, rates=(1e-3,), seeds=1)
    monkeypatch.setattr("sys.argv", ["hubinit", "leaderboard", "serve", str(root)])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code != 0 and "needs no_such_package: pip install 'hubinit[app]'" in told
