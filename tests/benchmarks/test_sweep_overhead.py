"""The benchmark of the start of a sweep measures a sweep: few runs, and what it says of them."""

import sweep_overhead


def test_it_plans_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep_overhead.py", "--runs", "12", "--left", "2"])
    assert sweep_overhead.main() == 0
    assert '"runs": 12' in capsys.readouterr().out
