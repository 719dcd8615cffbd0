"""The command line: helpful help, and one sentence with a non-zero exit for every mistake."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from hubinit import cli
from hubinit.cli.options import learning_rate, numbers, whole_numbers
from hubinit.errors import HubinitError
from tests.command_line import run

pytestmark = pytest.mark.slow  # most tests start hubinit anew

BENCH = ("bench", "--models", "smollm2-135m", "--tasks", "arc-easy", "--methods", "lora", "--dry-run")


def anew(*arguments, **environment):
    """In a process of its own, as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "hubinit.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def the_one_sentence(done, code=1):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Planning")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        *([], ["bench"], ["train"], ["eval"], ["hub"], ["hub", "serve"], ["hub", "seed"], ["methods"], ["tasks"]),
        *(
            ["models"],
            ["init"],
            ["publish-inits"],
            ["push"],
            ["pull"],
            ["find"],
            ["show"],
            ["status"],
            ["logs"],
            ["doctor"],
            ["sync"],
            ["leaderboard"],
            ["plot"],
        ),
        *(["leaderboard", "build"], ["leaderboard", "export"], ["leaderboard", "recommend"]),
    ],
)
def test_help_is_quick_and_has_an_example(command):
    done = anew(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if command and command not in (["hub"], ["methods"], ["models"], ["tasks"]):
        assert "Example: " in done.stdout


def test_the_command_line_starts_without_torch():
    code = "import hubinit.cli, sys; assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version():
    assert anew("--version").stdout.startswith("hubinit ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--models", "smolm2-135m"), "Unknown model 'smolm2-135m': did you mean smollm2-135m"),
        ((*BENCH, "--methods", "filett"), "Unknown method 'filett': did you mean filet"),
        ((*BENCH, "--tasks", "arc-esy"), "Unknown task 'arc-esy': did you mean arc-easy"),
        ((*BENCH, "--seeds", "one"), "--seeds wants numbers"),
        ((*BENCH, "--seeds", "0.5"), "--seeds wants whole numbers from 0, not 0.5"),
        ((*BENCH, "--lrs", "1e-4,nan"), "--lrs wants finite numbers from 0, not nan"),
        ((*BENCH, "--models", ","), "empty"),
        ((*BENCH, "--hub", "nowhere"), "--hub wants 'embedded', 'offline' or a URL"),
        ((*BENCH, "--models", "alice/not-there"), "alice/not-there"),
        (
            ("eval", "alice/not-there", "--tasks", "gsm8k", "--engine", "vllm"),
            "vLLM is not installed: `pip install vllm`",
        ),
        (("eval", "alice/not-there", "--tasks", "arc-easy"), "alice/not-there"),
        (("hub", "serve", "--user", "alice:hf_alice"), "write NAME=TOKEN into a file for --users"),
        (("hub", "serve", "--users", "missing.txt"), "missing.txt cannot be read"),
        (("hub", "seed", "smolm2", "--root", "ROOT"), "Unknown seed 'smolm2'"),
    ],
)
def test_mistakes_get_one_sentence(hub, api, tmp_path, arguments, message):
    if "alice/not-there" not in arguments and "bench" in arguments:
        for kind, name in (("model", "hubinit/SmolLM2-135M-Instruct-from-Q4_1"), ("dataset", "allenai/ai2_arc")):
            stand_in(hub, kind, name)
    arguments = [str(tmp_path / "hub") if part == "ROOT" else part for part in arguments]
    assert message in the_one_sentence(run(*arguments))


def stand_in(hub, kind, name):

    store = hub.store
    if not store.repo_exists(kind, name):
        store.create_repo(kind, name)
        store.commit(kind, name, {"README.md": b"stand-in\n"}, message="x", author="tests")


def test_an_unreachable_hub_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message = the_one_sentence(anew(*BENCH[:-1], "--hub", url))
    assert url in message


def test_a_dry_run_of_a_registered_model_needs_no_hub(tmp_path):
    looked = anew(*BENCH, "--hub", "offline", "--out", str(tmp_path), HF_HOME=str(tmp_path))
    assert looked.returncode == 0, looked.stderr
    assert "Not checked: access to hubinit/SmolLM2" in looked.stderr
    assert "4.88 M" in looked.stdout, "what LoRA trains is known without a Hub"


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        message = the_one_sentence(anew("hub", "serve", "--root", str(tmp_path), "--port", port))
    assert port in message


def test_errors_are_json_for_scripts():
    done = run(*BENCH, "--models", "smolm2-135m", "--json")
    assert done.returncode == 1
    assert "did you mean" in json.loads(done.stdout)["error"]


def test_a_corrupt_result_is_named(hub, tmp_path):
    for kind, name in (("model", "hubinit/SmolLM2-135M-Instruct-from-Q4_1"), ("dataset", "allenai/ai2_arc")):
        stand_in(hub, kind, name)
    rows = json.loads(run(*BENCH, "--out", str(tmp_path), "--json").stdout)
    path = tmp_path / "runs" / rows[0]["key"] / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    done = run(*BENCH, "--out", str(tmp_path))  # it is planned to run again
    assert "result.json is not a readable run result" in done.stderr
    assert done.returncode == 0


def test_registries_are_printed():
    assert "arXiv" in run("methods").stdout
    methods = json.loads(run("methods", "--json").stdout)
    assert methods["filet"]["options"]["selection"]["default"] == "M"
    assert "allenai/ai2_arc" in run("tasks").stdout
    tasks = json.loads(run("tasks", "--json").stdout)
    assert "commonsense" in tasks["suites"]
    assert all(task["source"] and task["how"] for task in tasks["tasks"].values())
    assert all(bool(task["metric"]) == (task["how"] != "is for training only") for task in tasks["tasks"].values())
    assert "meta-llama/Meta-Llama-3-8B" in run("models").stdout
    models = json.loads(run("models", "--json").stdout)
    assert models["llama3-8b"] == {"id": "meta-llama/Meta-Llama-3-8B", "kind": "language"}


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "0.5", "3-1", "one"])
def test_seeds_are_whole_numbers_from_0(text):
    with pytest.raises(HubinitError, match="--seeds wants"):
        whole_numbers(text, "--seeds", 0)
    assert whole_numbers("0,2-4", "--seeds", 0) == (0, 2, 3, 4)


@pytest.mark.parametrize("text", ["-1e-4", "inf", "nan"])
def test_learning_rates_are_finite_and_not_negative(text):
    with pytest.raises(HubinitError, match="--lrs wants finite numbers"):
        numbers(text, "--lrs")
    assert numbers("0,1e-4", "--lrs") == (0, 1e-4)
    with pytest.raises(HubinitError, match="--lr wants learning rates above 0"):
        learning_rate(0.0, "--lr")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_one_sentence(monkeypatch, capsys, error):
    def exhausted():
        raise error

    monkeypatch.setattr(cli, "app", exhausted)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "lower --batch-size" in capsys.readouterr().err


def test_other_runtime_errors_keep_their_traceback(monkeypatch):
    def broken():
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.main()
