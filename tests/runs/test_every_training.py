"""Runs from the base to the stored weights, with a tiny model: what methods do in training, all weights, and kill -9."""

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.methods import METHODS, get
from hubinit.models import base
from hubinit.records import ResultStore, RunResult
from hubinit.runs.full import WEIGHTS
from hubinit.runs.job import Event, Job, Progress
from hubinit.runs.training import shrink
from hubinit.runs.worker import Worker
from hubinit.specs import FULL, CalibrationSpec, DataSpec, Dtype, EvalSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training import trainer as training
from tests import texts

POOL = [Example(f"What comes after number {i}?", f" It is {i + 1}.") for i in range(12)]
RECIPE = Recipe(steps=4, batch_size=4, micro_batch_size=2, max_length=64, warmup_ratio=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "training_examples", lambda data, seed: (POOL, POOL[:2]))


def job(
    folder: Path, store: Path, method: str, *, dtype: Dtype = "float32", optimiser: str = "adamw", **options: Any
) -> Job:
    adapter = method != FULL
    calibrated = adapter and get(method).statistics(get(method).options())
    spec = RunSpec(
        model=ModelSpec(id=str(folder), dtype=dtype),
        method=MethodSpec(name=method, options=options),
        rank=2 if adapter else 0,
        alpha=4 if adapter else 0,
        data=DataSpec(tasks=("boolq",)),
        recipe=RECIPE.model_copy(update={"optimiser": optimiser}),
        calibration=CalibrationSpec(samples=8, max_length=64) if calibrated else None,
        learning_rate=1e-2 if adapter else 1e-3,
    )
    return Job(store=store, spec=spec, device="cpu")


def done(job: Job, worker: Worker | None = None) -> RunResult:
    (worker or Worker(lambda event: None)).do(job)
    result = ResultStore(job.store).readable(job.spec.key)
    assert result is not None
    assert result.status == "ok", result.reason
    return result


def weights(job: Job) -> dict[str, torch.Tensor]:
    path = WEIGHTS if job.spec.method.name == FULL else "adapter/adapter_model.safetensors"
    return load_file(ResultStore(job.store).folder(job.spec.key) / path)


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def kill_at(step: int) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "train" and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pissa", "lora-ga", "kasa", "lora-dash", FULL])
def test_a_run_killed_in_training_ends_in_the_same_weights(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = job(folder, tmp_path / "straight", method), job(folder, tmp_path / "broken", method)
    expected = done(straight)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the fork of a process with threads
        child = os.fork()
    if child == 0:
        Worker(kill_at(4)).do(broken)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (ResultStore(broken.store).folder(broken.spec.key) / "checkpoints/checkpoint-3").is_dir()
    steps: list[int] = []
    worker = Worker(lambda event: steps.append(event.step) if isinstance(event, Progress) and event.steps else None)
    result = done(broken, worker)
    assert steps[-1:] == [4]
    assert 3 not in steps
    assert equal(weights(broken), weights(straight))
    assert result.curve == expected.curve


@pytest.mark.parametrize("method", ["kasa", "lora-dash"])
@pytest.mark.parametrize("optimiser", ["adamw", "frozen-a"])
def test_what_acts_in_training_changes_the_run(method: str, optimiser: str, folder: Path, tmp_path: Path) -> None:
    own = job(folder, tmp_path, method, optimiser=optimiser)
    if method == "kasa":
        plain = job(folder, tmp_path, "kasa", optimiser=optimiser, beta=0.0, gamma=0.0)
    else:
        plain = job(folder, tmp_path, "lora", optimiser=optimiser)
    one, two = done(own), done(plain)
    ranks = {tensor.shape[0] for name, tensor in weights(own).items() if "lora_A" in name}
    assert ranks == ({4} if method == "kasa" else {2 + 8})
    assert one.curve[-1].loss != two.curve[-1].loss
    assert set(one.gates) == {"start", "printed", "trained", "reload"}


@pytest.mark.parametrize(
    ("kind", "options"), [("vera", {}), ("ia3", {}), ("adalora", {"total_step": 4, "tfinal": 1, "target_r": 1})]
)
def test_a_method_of_peft_runs_unchanged(kind: str, options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    result = done(job(folder, tmp_path, f"peft:{kind}", **options))
    assert set(result.gates) == {"start", "printed", "trained", "reload"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_weights_train_and_the_next_run_has_the_untouched_base(dtype: Dtype, folder: Path, tmp_path: Path) -> None:
    alone = done(job(folder, tmp_path / "alone", "lora", dtype=dtype))
    worker = Worker(lambda event: None)
    full = job(folder, tmp_path, FULL, dtype=dtype)
    result = done(full, worker)
    assert done(job(folder, tmp_path, "lora", dtype=dtype), worker).adapter_sha256 == alone.adapter_sha256
    assert result.curve[-1].loss < result.curve[0].loss
    assert set(result.gates) == {"trained", "reload"}
    stored, loaded = weights(full), base.load(full.spec.model, "cpu")
    parameters = dict(loaded.model.named_parameters())
    assert result.trainable_parameters == sum(p.numel() for p in parameters.values())
    for name, parameter in parameters.items():
        assert stored[name].dtype == parameter.dtype == getattr(torch, dtype)
        assert not torch.equal(stored[name], parameter), f"{name} did not move"


def test_stored_weights_are_scored_further_unless_they_were_changed(folder: Path, tmp_path: Path) -> None:
    full = job(folder, tmp_path, FULL)
    first = done(full)
    path = ResultStore(tmp_path).folder(full.spec.key) / WEIGHTS
    before = path.stat().st_mtime_ns
    assert done(full).adapter_sha256 == first.adapter_sha256
    assert path.stat().st_mtime_ns == before, "it was loaded, not trained again"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    Worker(lambda event: None).do(full.model_copy(update={"evaluations": (EvalSpec(task="arc-easy"),)}))
    result = ResultStore(tmp_path).readable(full.spec.key)
    assert result is not None
    assert result.status == "partial"
    assert "is not the model of the stored result" in str(result.reason)


def test_every_method_of_all_has_its_training_parts() -> None:
    assert {name for name, method in METHODS.items() if method.penalty} == {"kasa"}
    assert {name for name, method in METHODS.items() if method.directions} == {"lora-dash"}
    with pytest.raises(HubinitError, match="Unknown method"):
        get(FULL)


def test_a_run_that_runs_out_of_memory_goes_on_with_smaller_passes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, crowded = job(folder, tmp_path / "straight", "pissa"), job(folder, tmp_path / "crowded", "pissa")
    expected = done(straight)
    stages: list[str] = []
    steps: list[int] = []

    def run_out_at_3(event: Event) -> None:
        if isinstance(event, Progress):
            stages.append(event.stage)
            steps.append(event.step) if event.steps else None
            if event.step == 3 and not any("out of memory" in stage for stage in stages):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    result = done(crowded, Worker(run_out_at_3))
    assert "out of memory: on with micro_batch_size 1" in stages
    assert steps == [1, 2, 3, 3, 4], "from the checkpoint"
    assert result.spec.recipe is not None
    assert (result.spec.recipe.micro_batch_size, result.key) == (1, expected.key)
    for one, two in zip(result.curve, expected.curve, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-4)
    for name, value in weights(straight).items():
        torch.testing.assert_close(weights(crowded)[name], value, rtol=1e-2, atol=1e-4)


def test_a_run_that_one_example_at_a_time_does_not_fit_fails_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    def always_run_out(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "train" and event.step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    tried = job(folder, tmp_path, "lora")
    Worker(always_run_out).do(tried)
    result = ResultStore(tmp_path).readable(tried.spec.key)
    assert result is not None
    assert (result.status, result.key) == ("failed", tried.spec.key)
    assert "with one example per forward pass; lower recipe.max_length" in str(result.reason)


def test_smaller_passes_divide_the_batch(folder: Path, tmp_path: Path) -> None:
    def sizes(batch: int, micro: int) -> list[int]:
        recipe = RECIPE.model_copy(update={"batch_size": batch, "micro_batch_size": micro})
        own = job(folder, tmp_path, "lora")
        now: Job | None = own.model_copy(update={"spec": own.spec.model_copy(update={"recipe": recipe}), "force": True})
        found = []
        while now is not None and (now := shrink(now)) is not None:
            assert now.spec.recipe is not None
            assert not now.force, "what is done is not done again"
            found.append(now.spec.recipe.micro_batch_size)
        return found

    assert sizes(16, 16) == [8, 4, 2, 1]
    assert sizes(15, 5) == [1]
    assert sizes(12, 6) == [3, 1]
    assert sizes(4, 8) == [2, 1], "a pass is at most a whole batch"


def test_examples_that_lost_tokens_are_counted(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = texts.tokenizer()
    lengths = [len(tokens(one.prompt + one.completion)["input_ids"]) + 1 for one in POOL]
    limit = sorted(lengths)[2]
    cut = sum(length > limit for length in lengths)
    assert 0 < cut < len(POOL)
    own = job(folder, tmp_path, "lora")
    recipe = RECIPE.model_copy(update={"max_length": limit})
    own = own.model_copy(update={"spec": own.spec.model_copy(update={"recipe": recipe})})
    assert done(own).cut_examples == cut
    assert f"boolq: {cut} training examples have more than {limit} tokens" in capfd.readouterr().out
