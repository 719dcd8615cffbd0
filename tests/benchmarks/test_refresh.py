"""The scheduled refresh: what its script does (`make refresh-local` plays it whole), and what the workflows may do."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import refresh
import yaml

GITHUB = Path(__file__).resolve().parents[2] / ".github"
WORKFLOWS = {path.stem: path.read_text() for path in sorted((GITHUB / "workflows").glob("*.yml"))}


@pytest.fixture(scope="module")
def submissions():
    """.github/scripts/validate_submissions.py as a module."""
    spec = importlib.util.spec_from_file_location("submissions", GITHUB / "scripts" / "validate_submissions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("bench", "compare", "code"), [(0, 0, 0), (2, 0, 1), (0, 3, 3), (2, 3, 3), (0, 1, 1)])
def test_what_failed_stops_nothing_else_and_what_became_worse_is_told(tmp_path, bench, compare, code):
    asked = []

    def run(arguments):
        asked.append(list(arguments))
        if arguments[:2] == ["leaderboard", "build"]:
            (tmp_path / "board").mkdir(exist_ok=True)
        return {"bench": bench}.get(arguments[0], compare if arguments[1] == "compare" else 0)

    plan, handed = [["--models", "a"], ["--models", "b"]], tmp_path / "handed"
    (handed / "theirs" / "runs").mkdir(parents=True)
    (handed / "README.md").touch()
    again = {"public": True, "submissions": handed, "run": run}
    assert refresh.refresh(plan, "me", tmp_path, **again) == (1 if bench else 0)  # there is no last one
    assert refresh.refresh(plan, "me", tmp_path, **again) == code
    data_set = "me/hubinit-leaderboard"
    assert asked[4:] == [
        ["bench", "--models", "a", "--push-to", "me", "--out", str(tmp_path / "runs"), "--public"],
        ["bench", "--models", "b", "--push-to", "me", "--out", str(tmp_path / "runs"), "--public"],
        [
            "leaderboard",
            "build",
            str(tmp_path / "runs"),
            str(handed / "theirs"),
            data_set,
            "--out",
            str(tmp_path / "board"),
        ],
        ["leaderboard", "push", str(tmp_path / "board"), "--to", data_set, "--public"],
        [
            "leaderboard",
            "compare",
            *(str(tmp_path / name) for name in ("last", "board")),
            "--markdown",
            str(tmp_path / "report.md"),
        ],
    ]


def test_the_plan_is_what_bench_takes(tmp_path):
    from hubinit.methods import METHODS

    for line in refresh.read_plan(refresh.PLAN):
        assert not {"--out", "--push-to"} & set(line)
        methods = line[line.index("--methods") + 1].split(",")
        assert set(methods) - {"none", "all"} <= set(METHODS)
    (tmp_path / "plan").write_text("# none\n\n--models 'a b' # and\n")
    assert refresh.read_plan(tmp_path / "plan") == [["--models", "a b"]]


def test_what_a_pull_request_runs_has_no_secrets_and_what_may_write_runs_nothing_of_it():
    checks, tells = (yaml.safe_load(WORKFLOWS[name]) for name in ("submissions", "verdict"))
    assert "secrets." not in WORKFLOWS["submissions"] and checks["permissions"] == {"contents": "read"}
    assert set(checks[True]) == {"pull_request"} and set(tells[True]) == {"workflow_run"}  # YAML 1.1 reads `on` as true
    (job,) = tells["jobs"].values()
    assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    assert tells["permissions"] == {} and job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert tells[True]["workflow_run"]["workflows"] == [checks["name"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_expression_is_put_into_a_script(name):
    """A branch's or a release's name in a script would run as one; the environment brings it as text."""
    for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert not any("${{" in step.get("run", "") for step in job["steps"])
    assert re.findall(r"uses: (?!\S+@[0-9a-f]{40} # v)", WORKFLOWS[name]) == []


def test_a_verdict_names_each_changed_submission(submissions, tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    folder = tmp_path / "submissions"
    git("init", "--quiet", "--initial-branch", "main")
    for name in ("old", "gone"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message", "base")
    shutil.rmtree(folder / "gone")
    for name in ("good", "$(touch pwned) `x`<b>", "bad"):
        (folder / name).mkdir()
        (folder / name / "a").write_text("1")
    (folder / "link").symlink_to("/etc")
    (folder / "README.md").write_text("not a submission")
    git("add", ".")
    git("commit", "--quiet", "--message", "hand in")
    names = submissions.changed("HEAD~1", tmp_path)
    assert names == ["$(touch pwned) `x`<b>", "README.md", "bad", "gone", "good", "link"]

    def run(arguments):
        assert arguments[:2] == ["leaderboard", "validate"] and arguments[-2:] == ["--against", "a/b"]
        source, report = Path(arguments[2]), Path(arguments[4])
        report.write_text(f"verdict on {source.name if source.name.isalpha() else None}")
        return 3 if source.name == "bad" else 0

    verdict = tmp_path / "verdict.md"
    assert submissions.validate(names, tmp_path, verdict, against="a/b", run=run) == 3
    text = verdict.read_text()
    assert "verdict on good" in text and "verdict on bad" in text and "`link` is a link" in text and "gone" not in text
    assert "<b>" not in text and "$(" not in text and not (tmp_path / "pwned").exists()
    assert submissions.validate(["old"], tmp_path, verdict, run=lambda arguments: 1) == 1
    assert "could not be checked" in verdict.read_text()
