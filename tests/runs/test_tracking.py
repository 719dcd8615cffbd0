"""Trackers, with a tiny library of the name that the Trainer's callback asks for."""

import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import TrainerCallback

import hubinit
from hubinit.errors import HubinitError
from hubinit.runs import tracking
from hubinit.runs.tracking import check_trackers, run_name, tracked
from hubinit.specs import MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training.trainer import train
from tests.texts import language_model, tokenizer
from tests.training.test_diagnostics import EXAMPLES

FAKE_TRACKIO = """
import json, os
from contextvars import ContextVar
__version__ = "0.43.0"
class context_vars:
    current_run = ContextVar("run", default=None)
    current_space_id = ContextVar("space", default=None)
    current_project = ContextVar("project", default=None)
class Config(dict):
    def update(self, values, allow_val_change=False): super().update(values)
config = Config()
def say(**what):
    with open(os.environ["TRACKIO_DIR"] + "/log", "a") as file: file.write(json.dumps(what) + "\\n")
def init(project, name, private, **rest):
    context_vars.current_run.set(name)
    say(init=name, project=project, private=private)
def log(values): say(log={key: value for key, value in values.items() if isinstance(value, (int, float))})
def finish():
    say(finish=context_vars.current_run.get())
    context_vars.current_run.set(None)
"""


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trackio.py").write_text(FAKE_TRACKIO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    importlib.invalidate_caches()
    return tmp_path / "log"


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("stop")


@pytest.mark.parametrize("broken", [False, True])
def test_each_training_is_a_run_of_its_own_that_ends(trackio: Path, tmp_path: Path, broken: bool) -> None:
    ending = pytest.raises(RuntimeError, match="stop") if broken else nullcontext()
    with ending, tracked(["trackio"], "tiny/lora/0123", tmp_path / "store"):
        train(
            hubinit.initialize(language_model(), "lora", rank=2, alpha=4, seed=0),
            tokenizer(),
            EXAMPLES,
            Recipe(steps=2, batch_size=4, max_length=64),
            learning_rate=1e-3,
            seed=0,
            output_dir=tmp_path / "checkpoints",
            report_to=["trackio"],
            run_name="tiny/lora/0123",
            callbacks=[Stop()] if broken else [],
        )
    said = [json.loads(line) for line in trackio.read_text().splitlines()]
    assert said[0] == {"init": "tiny/lora/0123", "project": "hubinit", "private": True}
    assert said[-1] == {"finish": "tiny/lora/0123"}
    losses = [line["log"]["train/loss"] for line in said if "train/loss" in line.get("log", {})]
    assert len(losses) == (0 if broken else 2)


def test_only_what_the_user_left_open_is_set_and_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv(tracking.TENSORBOARD, raising=False)
    with tracked([], "m/lora/1", tmp_path):
        assert os.environ["WANDB_PROJECT"] == "mine"
        assert os.environ[tracking.TENSORBOARD] == str(tmp_path / "tensorboard" / "m/lora/1")
    assert os.environ["WANDB_PROJECT"] == "mine" and tracking.TENSORBOARD not in os.environ


def test_unknown_and_missing_trackers_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubinitError, match="takes trackio, wandb, tensorboard, not 'mlflow'"):
        check_trackers(["mlflow"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(HubinitError, match="pip install wandb"):
        check_trackers(["wandb"])
    check_trackers([])


def test_a_login_is_asked_for_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    monkeypatch.setattr(tracking, "_logged_in", lambda: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(HubinitError, match="WANDB_MODE=offline"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


def test_a_run_is_named_by_model_method_and_key() -> None:
    spec = RunSpec(model=ModelSpec(id="org/tiny"), method=MethodSpec(name="lora"), rank=2, alpha=4)
    assert run_name(spec) == f"tiny/lora/{spec.key}"
