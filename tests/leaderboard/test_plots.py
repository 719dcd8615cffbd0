"""What is drawn, against numbers worked out by hand; and that the files are written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubinit.cli.plotting import plot
from hubinit.errors import HubinitError
from hubinit.leaderboard.plots import curves, draw, drift, learning_rates, settings
from hubinit.records import CurvePoint, Diagnostics, Drift, Provenance, ResultStore, RunResult
from hubinit.specs import DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec

PROVENANCE = Provenance(versions={}, hardware={}, command="", created="2026-11-01T00:00:00Z")


def run(
    method: str, rate: float, seed: int, loss: float | None, *, angle: float | None = None, **fields: Any
) -> RunResult:
    """A run whose training loss falls from 4 to `loss` in two steps; without a loss it diverged."""
    spec = RunSpec(
        model=ModelSpec(id="org/model"),
        method=MethodSpec(name=method),
        rank=4,
        alpha=8,
        data=DataSpec(tasks=("arc-easy",)),
        recipe=Recipe(steps=2, optimiser=fields.pop("optimiser", "adamw"), batch_size=fields.pop("batch_size", 16)),
        learning_rate=rate,
        seed=seed,
    )
    moved = Drift(input_angle=angle, update_norm=1.0) if angle is not None else None
    return RunResult(
        key=spec.key,
        spec=spec,
        status="ok" if loss is not None else "diverged",
        validation_loss=loss,
        curve=(CurvePoint(step=1, loss=4.0), CurvePoint(step=2, loss=loss)) if loss is not None else (),
        diagnostics=Diagnostics(drift=moved) if moved else None,
        provenance=PROVENANCE,
        **fields,
    )


RUNS = [
    run("lora", 1e-3, 0, 3.0, angle=1.0),
    run("lora", 1e-3, 1, 2.0, angle=3.0),
    run("lora", 1e-3, 2, 2.2, angle=9.0),
    run("lora", 1e-2, 0, 1.5, angle=20.0),  # the lowest loss, of one seed
    run("lora", 1e-1, 0, None),
    run("pissa", 1e-3, 0, 2.4),
]


def test_lines_are_medians_over_seeds_at_the_best_rate() -> None:
    (setting,) = settings(RUNS)
    figure = curves(setting)
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"lora r4, 0.001", "pissa r4, 0.001"}
    np.testing.assert_allclose(lines["lora r4, 0.001"].get_xydata(), [[1, 4.0], [2, 2.2]])
    (band, _) = figure.axes[0].collections
    assert (band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()) == (2.0, 4.0)
    assert "model on arc-easy, 2 steps of 16, 3 seeds, 6 runs" in figure.get_suptitle()


def test_the_loss_by_learning_rate_marks_what_diverged() -> None:
    (setting,) = settings(RUNS)
    figure = learning_rates(setting)
    assert figure is not None
    axes = figure.axes[0]
    lora = next(c for c in axes.containers if c.get_label() == "lora r4")
    np.testing.assert_allclose(lora.lines[0].get_xydata(), [[1e-3, 2.2], [1e-2, 1.5]])
    low, high = lora.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (pytest.approx(2.0), pytest.approx(3.0))
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [1e-1]
    assert axes.get_xscale() == "log"


def test_angles_by_learning_rate_and_a_start_without_a_space_has_none() -> None:
    (setting,) = settings(RUNS)
    figure = drift(setting)
    assert figure is not None
    rows, columns = figure.axes
    np.testing.assert_allclose(rows.containers[0].lines[0].get_xydata(), [[1e-3, 3.0], [1e-2, 20.0]])
    assert not columns.containers


def test_recipes_have_figures_of_their_own_and_optimisers_share_them() -> None:
    other = [run("lora", 1e-3, 0, 2.0, optimiser="lora+"), run("lora", 1e-3, 0, 2.0, batch_size=32)]
    found = settings([*RUNS, *other])
    assert [setting.name for setting in found] == ["model-arc-easy", "model-arc-easy~2"]
    assert sorted(len(setting.runs) for setting in found) == [1, 7]
    assert "lora r4 lora+" in {label for setting in found for label in setting.lines}


def test_what_is_missing_is_said() -> None:
    notes: list[str] = []
    assert [name for name, _ in draw([run("lora", 1e-3, 0, 2.0)], notes.append)] == ["curves-model-arc-easy"]
    assert ["two learning rates" in notes[0], "no run has diagnostics" in notes[1], "1 runs lack" in notes[2]] == [
        True
    ] * 3


def test_the_command_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ResultStore(tmp_path / "runs")
    for result in RUNS:
        store.write(result)
    plot(store.root, None, "svg")
    files = sorted(path.name for path in (store.root / "figures").iterdir())
    assert files == [f"{name}-model-arc-easy.svg" for name in ("curves", "drift", "learning-rates")]
    assert capsys.readouterr().out.count("Figure: ") == 3
    assert all(path.stat().st_size > 5000 for path in (store.root / "figures").iterdir())


def test_a_folder_without_results_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HubinitError, match="holds no results"):
        plot(tmp_path)
