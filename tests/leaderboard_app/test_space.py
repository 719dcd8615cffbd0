"""The Space as it is assembled: its sources work where hubinit's own dependencies, torch first, are not there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hubinit.leaderboard.build import build
from tests.leaderboard_app.results import write_results

ROOT = Path(__file__).parents[2]
ASSEMBLE = [sys.executable, str(ROOT / "leaderboard" / "assemble.py")]
ABSENT = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "lm_eval",
    "tenacity",
    "safetensors",
    "typer",
)
ALONE = f"""
import sys
from pathlib import Path
for name in {ABSENT}:
    sys.modules[name] = None  # an import of it raises
from hubinit.leaderboard.app import pages, query
from hubinit.leaderboard.app.source import opened
import hubinit
assert Path(hubinit.__file__).parts[-3] == "space", hubinit.__file__
for source in sys.argv[1:]:
  with opened(source) as data:
    one = next(iter(data.by_id))
    for view in query.VIEWS:
        page = pages.page(data, f"?view={{view}}&line={{one}}&a={{one}}&b={{one}}&for_task=piqa")
        assert "cannot be shown" not in page.html, page.html
    print(len(data.lines))
"""


@pytest.fixture
def board(tmp_path):
    build(
        [("r", write_results(tmp_path / "r", methods={"lora": 0.4, "filet": 0.6}, rates=(1e-3,)))],
        [],
        tmp_path / "board",
    )
    return tmp_path / "board"


def run(arguments, **settings):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, **settings)


def test_its_sources_show_every_page_with_nothing_else_of_hubinit(tmp_path, board):
    space = tmp_path / "space"
    done = run([*ASSEMBLE, "--out", str(space), "--board", str(board)])
    assert done.returncode == 0, done.stderr
    data_set = tmp_path / "set" / "data"  # as it lies on the Hub
    data_set.mkdir(parents=True)
    for name in ("runs", "summary", "items"):
        (data_set / f"{name}-00000-of-00001.parquet").write_bytes((board / f"{name}.parquet").read_bytes())
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(space), "PYTHONSAFEPATH": "1"}
    sources = ["board", str(data_set.parent)]
    shown = run([sys.executable, "-c", ALONE, *sources], cwd=space, env=environment)
    assert shown.returncode == 0, shown.stderr
    counts = shown.stdout.split()
    assert counts[0] == counts[1] and int(counts[0]) > 100


def test_a_data_set_without_a_leaderboard_is_one_sentence(tmp_path):
    from hubinit.errors import HubinitError
    from hubinit.leaderboard.app.source import opened

    with pytest.raises(HubinitError, match=r"runs\.parquet is not there"), opened(str(tmp_path)):
        pass


def test_it_names_its_data_set_and_leaves_other_folders_alone(tmp_path):
    assert run([*ASSEMBLE, "--out", str(tmp_path / "space"), "--leaderboard", "me/board"]).returncode == 0
    assert '"HUBINIT_LEADERBOARD", "me/board"' in (tmp_path / "space" / "app.py").read_text()
    assert run([*ASSEMBLE, "--out", str(tmp_path / "x"), "--leaderboard", 'me/"); import os #']).returncode == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    refused = run([*ASSEMBLE, "--out", str(tmp_path / "thesis")])
    assert (
        refused.returncode == 1 and "something else" in refused.stderr and (tmp_path / "thesis" / "thesis.tex").exists()
    )


def test_its_requirements_ask_for_no_more_than_the_package_does():
    def bounds(lines):
        found = (re.match(r"([\w-]+)\s*>=([\d.]+)", line) for line in lines)
        return {match[1]: match[2] for match in found if match}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package = bounds([*project["dependencies"], *project["optional-dependencies"]["app"]])
    needed = bounds((ROOT / "leaderboard" / "requirements.txt").read_text().splitlines())
    assert needed and {name: package.get(name) for name in needed} == needed
    assert not set(needed) & set(ABSENT)
