"""A small storm: sweeps that are killed and started again, alone and two on one folder, end as an undisturbed one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "sweep_storm.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sweeps", [1, 2])
def test_killed_sweeps_end_as_an_undisturbed_one(tmp_path: Path, sweeps: int) -> None:
    options = {"out": tmp_path, "kills": 4, "runs": 12, "sweeps": sweeps, "workers": 3 - sweeps, "seed": sweeps}
    command = [sys.executable, str(SCRIPT), *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    seen = json.loads((tmp_path / "sweep-storm.json").read_text())
    assert (seen["problems"], done.returncode) == ([], 0), done.stderr
    assert sum(seen["kills"].values()) > 0
    assert seen["calibrations_begun"]["undisturbed"] == 1
