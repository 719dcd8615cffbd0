"""What leaves the checkout: the wheel, installed and used elsewhere, the source distribution, and what is declared about both."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hubinit.cli.environment import SEEDING, SERVING
from tests import texts

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = ("recipe.steps=2", "samples=8", "validation_samples=2", "limit=2", "calibration_samples=4", "rank=2")


def build(kind, source, folder):
    """Builds `wheel` or `sdist` from a folder; returns its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (path,) = folder.iterdir()
    return path


def package_files():
    """The files of the package in the checkout, as they are named in a wheel."""
    paths = (path for path in (ROOT / "hubinit").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command of the installed wheel in an empty folder, where nothing leads to the checkout.

    The libraries are those of this environment: a path in a `.pth` file adds them behind the wheel, without their own `.pth`
    files, of which one names the checkout.
    """
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    install = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=60)
    base = {"base": str(place / "venv"), "platbase": str(place / "venv")}
    site = Path(sysconfig.get_path("purelib", scheme="posix_prefix", vars=base))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "empty").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HUBINIT_HOME": str(place / "home"), "COLUMNS": "200"}
    where = "import hubinit; print(hubinit.__file__)"
    file = subprocess.check_output([python, "-c", where], text=True, cwd=place / "empty", env=environment)
    assert Path(file).is_relative_to(site)

    def start(*arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [place / "venv" / "bin" / "hubinit", *map(str, arguments)]
        return subprocess.Popen(command, cwd=place / "empty", env=environment, **pipes)

    return start


def run(start, *arguments):
    """Runs a command of the installed wheel to its end; returns what it printed."""
    return output(start(*arguments))


def output(process):
    """What a command prints until its end."""
    with process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:] + out[:3000]
    return out


@pytest.fixture(scope="module")
def home(installed, tmp_path_factory):
    """A tiny model and a tiny ARC-Easy on the embedded Hub that the installed wheel keeps in its own home."""
    content = tmp_path_factory.mktemp("content")
    texts.save_model(content / "tiny" / "llama")
    texts.save_arc(content / "allenai" / "ai2_arc")
    return run(installed, "hub", "seed", "--from", content)


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.startswith("hubinit/")} == package_files()
    assert {name.rpartition("/")[2] for name in names if ".dist-info/" in name} >= {"LICENSE", "entry_points.txt"}
    assert "hubinit/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/extra_metadata/constraints.txt")], (
        "for `hubinit doctor`"
    )


@pytest.mark.slow
def test_the_installed_wheel_prints_its_registries(installed):
    expected = {
        ("--version",): f"hubinit {PROJECT['version']}",
        ("--help",): "Usage",
        ("methods",): "filet",
        ("models",): "llama3-8b",
        ("protocols",): "quickstart",
        ("hub", "seed", "--list"): "smollm2-135m",
    }
    for process, text in [(installed(*command), text) for command, text in expected.items()]:
        assert text in output(process)


@pytest.mark.slow
def test_the_installed_wheel_serves_its_hub(installed, home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with installed("hub", "serve", "--port", port) as server:
        try:
            assert json.loads(fetch(f"http://127.0.0.1:{port}/api/models/tiny/llama", server))["id"] == "tiny/llama"
        finally:
            server.terminate()


def fetch(url, server):
    """One page of a server that is starting."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                return page.read()
        except OSError:
            assert server.poll() is None, server.stderr.read()
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.slow
def test_the_installed_wheel_benches_and_publishes(installed, home, tmp_path):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    command = ["bench", "--hub", "embedded", "--models", "tiny/llama", "--methods", "filet", "--tasks", "arc-easy"]
    command += ["--protocol", "quickstart", *settings, "--out", tmp_path, "--push-to", "local", "--json"]
    printed = json.loads(run(installed, *command))
    assert [result["status"] for result in printed["results"]] == ["ok"]
    assert printed["errors"] == []


def test_the_source_distribution_is_enough_to_work_on(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    tracked = ["Makefile", "constraints.txt", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"]
    tracked += ["tests/oracles.txt", "tests/stored", "benchmarks/quickstart.py", "leaderboard/README.md", "docs"]
    assert [name for name in tracked if not (folder / name).exists()] == []
    (tmp_path / "again").mkdir()
    again = build("wheel", folder, tmp_path / "again")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_extra_is_what_the_embedded_hub_asks_for():
    """A module that is checked before serving or seeding comes with the extra, and everything of the extra is checked."""
    homes = packages_distributions()
    wanted = {name.partition(">")[0] for name in PROJECT["optional-dependencies"]["hub"]}
    found = [{name.lower() for name in homes[module.partition(".")[0]]} & wanted for module in SEEDING]
    assert all(found)
    assert set().union(*found) == wanted


BLOCKED = """
import sys
blocked = sys.argv.pop(1).split(",")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from hubinit.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (("hub", "serve"), SERVING),
        (("hub", "serve"), ("re2",)),
        (("bench", "--hub", "embedded", "--models", "tiny/llama", "--tasks", "arc-easy"), ("uvicorn",)),
        (("hub", "seed", "--list"), ("google.protobuf", "gguf")),
    ],
)
def test_without_the_extra_the_sentence_says_how_to_get_it(command, missing, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, ",".join(missing), *command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "HUBINIT_HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.endswith('pip install "hubinit[hub]"')
    assert all(name in sentence for name in missing)


def test_the_workflow_has_every_python_that_is_declared_and_pins_its_actions():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    declared = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if " :: 3." in text]
    assert f"python: {json.dumps(declared)}" in workflow
    assert declared[0] == PROJECT["requires-python"].removeprefix(">=")
    uses = [line.partition("uses: ")[2] for line in workflow.splitlines() if "uses: " in line]
    assert uses
    for action in uses:
        name, _, pin = action.partition("@")
        digest, _, version = pin.partition(" # ")
        assert len(digest) == 40, name
        assert version.startswith("v"), name
