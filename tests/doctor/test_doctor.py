"""What `hubinit doctor` finds on machines that are not as they should be."""

import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from hubinit import doctor
from hubinit.cli import app
from hubinit.doctor import Finding, examine, libraries, machine, programs
from hubinit.doctor import hub as checks
from hubinit.scoring import sandbox

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def states(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.state) for finding in findings]


def test_every_library_that_is_needed_has_a_tested_version_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = libraries.tested_versions()
    for wanted in map(Requirement, project["dependencies"]):
        assert libraries.judge(wanted, tested[canonicalize_name(wanted.name)], True, tested) is None


@pytest.mark.parametrize(
    ("installed", "needed", "state", "said"),
    [
        ("2.1.0", True, None, ""),
        ("2.0", True, None, ""),
        ("2.1.9", True, None, ""),
        ("2.2.0", True, "warn", "2.2.0 is newer than 2.1.3"),
        ("1.9", True, "fail", "1.9; hubinit needs >=2.0"),
        ("1.9", False, "warn", "1.9; hubinit needs >=2.0"),
        (None, True, "fail", "not installed"),
        ("2.1.0+cpu", True, None, ""),
    ],
)
def test_a_library_is_held_to_its_bounds_and_to_the_tested_version(
    installed: str | None, needed: bool, state: str | None, said: str
) -> None:
    found = libraries.judge(Requirement("Some_Lib>=2.0"), installed, needed, {"some-lib": "2.1.3"})
    assert (found.state if found else None) == state
    if found is not None:
        assert found.found.startswith(said)
        assert "pip install 'Some_Lib" in found.advice


def test_an_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(libraries.check_python()) == [("Python", "ok")]
    monkeypatch.setattr(libraries.platform, "python_version", lambda: "3.9.1")
    assert states(libraries.check_python()) == [("Python", "fail")]


def test_a_driver_without_cuda_in_torch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    (found,) = machine.check_torch()
    assert (found.state, "with CUDA" in found.advice) == ("warn", True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (found,) = machine.check_torch()
    assert "CUDA_VISIBLE_DEVICES" in found.advice
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    assert states(machine.check_torch()) == [("torch", "ok")]


def test_each_gpu_says_what_is_free_and_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 79 * GIB, 1: 20 * GIB}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")
    monkeypatch.setattr(torch.cuda, "device", lambda number: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * GIB, total=8 * GIB))
    found = list(machine.check_devices())
    assert states(iter(found)) == [("GPU 0", "ok"), ("GPU 1", "warn"), ("processor", "warn")]
    assert found[0].found == "Card 0: 79.0 of 80.0 GiB free, no bfloat16: float32 is used"
    assert "3.0 of 8.0 GiB of memory free" in found[2].found


@pytest.mark.parametrize(("free", "state"), [(100, "ok"), (5, "warn"), (0.5, "fail")])
def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free * GIB))
    found = list(machine.check_disk(tmp_path / "not" / "yet"))
    assert [finding.state for finding in found] == [state] * 3
    assert found[0].advice.endswith("" if state == "ok" else "--out")
    monkeypatch.setattr(machine.os, "access", lambda *asked: False)
    assert [finding.state for finding in machine.check_disk(tmp_path)] == ["fail"] * 3


@pytest.mark.usefixtures("hub")
def test_the_hub_answers_and_knows_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(checks.check_hub()) == [("Hub", "ok")]
    (found,) = checks.check_token()
    assert (found.state, found.found) == ("ok", "alice, may write to alice")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "n" * 34)
    (found,) = checks.check_token()
    assert (found.state, "does not accept it" in found.found) == ("fail", True)
    monkeypatch.delenv("HF_TOKEN")
    (found,) = checks.check_token()
    assert (found.state, found.advice) == ("warn", checks.LOGIN)


@pytest.mark.parametrize(
    ("token", "orgs", "state", "found"),
    [
        ({"role": "read"}, (), "warn", "ann, may only read"),
        ({"role": "write"}, ("lab",), "ok", "ann, may write to ann, lab"),
        ({"role": "fineGrained"}, (), "ok", "ann, fine-grained; the Hub does not say what it may do"),
        ({"role": "fineGrained", "fineGrained": {"scoped": []}}, (), "warn", "ann, fine-grained, may write nowhere"),
        (
            {
                "role": "fineGrained",
                "fineGrained": {
                    "scoped": [
                        {"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.content.read"]},
                        {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]},
                    ]
                },
            },
            (),
            "ok",
            "ann, fine-grained, may write to lab",
        ),
    ],
)
def test_the_rights_of_a_token(token: dict[str, Any], orgs: tuple[str, ...], state: str, found: str) -> None:
    organisations = [{"name": name, "roleInOrg": "write"} for name in orgs] + [{"name": "school", "roleInOrg": "read"}]
    said = checks.rights({"name": "ann", "orgs": organisations, "auth": {"accessToken": token}})
    assert (said.state, said.found) == (state, found)


class LoginPage(BaseHTTPRequestHandler):
    """What a proxy in the way answers."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>please log in</html>")

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def test_what_is_not_a_hub_and_what_is_not_there_fail_and_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), LoginPage)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(checks, "HfApi", lambda: SimpleNamespace(endpoint=url, token=None))
    assert [(f.name, f.state) for f in checks.check_hub()] == [("Hub", "fail")]
    server.shutdown()
    server.server_close()
    (found,) = checks.check_hub()
    assert (found.state, url in found.found) == ("fail", True)
    monkeypatch.setattr(checks, "is_offline_mode", lambda: True)
    assert [f.state for f in checks.check_hub()] == ["warn"]


@pytest.mark.parametrize(
    ("line", "package", "state", "said"),
    [
        ('openjdk version "17.0.15" 2025-04-15', "1.2", "ok", ""),
        ('openjdk version "17.0.15" 2025-04-15', None, "warn", "hubinit[e2e]"),
        ('java version "1.8.0_391"', "1.2", "warn", "17 or newer"),
        ("Error: could not find libjvm.so", "1.2", "warn", "17 or newer"),
    ],
)
def test_a_java_is_asked_for_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, package: str | None, state: str, said: str
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(programs, "installed_version", lambda name: package)
    (found,) = programs.check_java()
    assert (found.state, said in found.advice) == (state, True)
    monkeypatch.setenv("PATH", "")
    assert [f.state for f in programs.check_java()] == ["warn"]


def test_the_sandbox_and_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "problem", lambda within: f"no {within}")
    for protection, state in (("bubblewrap", "ok"), ("namespaces", "ok"), ("none", "warn")):
        monkeypatch.setattr(sandbox, "protection", lambda protection=protection: protection)
        (found,) = programs.check_sandbox()
        assert found.state == state
    assert found.found == "bubblewrap: no bubblewrap; unshare: no namespaces"
    (tmp_path / "sbatch").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "installed_version", lambda name: None)
    assert [f.state for f in programs.check_slurm()] == ["warn"], "the program without the library"
    monkeypatch.setenv("PATH", "")
    assert [f.state for f in programs.check_slurm()] == ["ok"], "a machine that is not part of a cluster"


def test_a_check_that_breaks_is_a_failure_without_tokens_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "hf_" + "s" * 34

    def broken() -> Iterator[Finding]:
        raise RuntimeError(f"CUDA error: {secret}")

    for name in ("check_libraries", "check_hub", "check_token", "check_sandbox", "check_java"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "check_devices", broken)
    found = list(examine(tmp_path))
    (failure,) = [finding for finding in found if finding.state == "fail"]
    assert failure.found.startswith("RuntimeError: CUDA error")
    assert secret not in failure.found
    assert [finding.name for finding in found][-2:] == ["Ray", "Slurm"]


@pytest.mark.parametrize("state", ["ok", "warn", "fail"])
def test_the_exit_code_is_1_only_after_a_failure(monkeypatch: pytest.MonkeyPatch, state: Any) -> None:
    monkeypatch.setattr(doctor, "examine", lambda out: iter([Finding("Thing", state, "[so] it is", "do that")]))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == (1 if state == "fail" else 0)
    assert [line.split() for line in done.stdout.splitlines()][:2] == [
        [state, "Thing", "[so]", "it", "is"],
        ["->", "do", "that"],
    ]
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(done.stdout)["findings"][0]["state"] == state
    assert json.loads(done.stdout)["counts"][state] == 1


def test_a_whole_examination_ends_and_says_no_token(hub: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--out", str(tmp_path)])
    assert done.exit_code in {0, 1}
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert {"Python", "libraries", "torch", "processor", "results", "Hub", "token", "sandbox", "Java"} <= set(names)
    assert "hf_alice" not in done.output
