"""Two processes train one run together, and one process trains it alone: the same weights, up to rounding."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from hubinit.data.encode import IGNORED
from hubinit.errors import HubinitError
from hubinit.methods import METHODS
from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.local import LocalExecutor
from hubinit.runs.executors.together import TogetherExecutor
from hubinit.runs.full import WEIGHTS
from hubinit.runs.job import Died, Event, Finished, Job, Progress
from hubinit.runs.plan import PlannedRun
from hubinit.runs.sweep import sweep
from hubinit.specs import FULL, CalibrationSpec, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training.ranks import Filled, Rounded, split_batch
from tests import texts

# A worker that knows the examples: 11, so that the last step of an epoch is a part of one. The rank with seed 9 dies in training,
# the one with seed 8 fails.
SCRIPT = """
import os, signal
from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.runs import stages, worker
pool = [Example(f"What comes after number {i}?", f" It is {i + 1}." * (1 + i % 3)) for i in range(11)]
tasks.training_examples = lambda data, seed: (pool, pool[:3])
train = stages.run_training
def act(job, *args, **kwargs):
    if job.rank and job.spec.seed == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.rank and job.spec.seed == 8:
        raise RuntimeError("no more memory")
    return train(job, *args, **kwargs)
stages.run_training = act
worker.main()
"""
TRAINED = ("lora", "pissa", "dora", "kasa", "lora-dash", "lora-da", FULL)


def spec(base: Path, method: str, seed: int = 0) -> RunSpec:
    adapter = method != FULL
    calibrated = adapter and METHODS[method].statistics(METHODS[method].options())
    return RunSpec(
        model=ModelSpec(id=str(base), dtype="float32"),
        method=MethodSpec(name=method, options={"warmup": 2} if method == "lora-dash" else {}),
        rank=2 if adapter else 0,
        alpha=4 if adapter else 0,
        data=DataSpec(tasks=("boolq",)),
        recipe=Recipe(epochs=2, batch_size=4, micro_batch_size=1, max_length=64, warmup_ratio=0.0),
        calibration=CalibrationSpec(samples=8, max_length=64) if calibrated else None,
        learning_rate=1e-2 if adapter else 1e-3,
        seed=seed,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    script = tmp_path_factory.mktemp("worker") / "worker.py"
    script.write_text(SCRIPT)
    return (sys.executable, str(script))


@pytest.fixture(scope="module")
def stores(base: Path, command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ResultStore]]:
    """All runs, by one process and by two."""
    made = []
    for executor in (LocalExecutor(command), TogetherExecutor(2, command)):
        store = ResultStore(tmp_path_factory.mktemp("store"))
        with closing(executor):
            for method in TRAINED:
                *_, end = executor.submit(Job(store=store.root, spec=spec(base, method), device="cpu"))
                assert isinstance(end, Finished), end
                assert end.status == "ok", end.reason
        made.append(store)
    yield made


def of(store: ResultStore, run: RunSpec) -> tuple[RunResult, dict[str, torch.Tensor]]:
    result = store.readable(run.key)
    assert result is not None
    path = WEIGHTS if run.method.name == FULL else "adapter/adapter_model.safetensors"
    return result, load_file(store.folder(run.key) / path)


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_two_processes_equal_one(method: str, base: Path, stores: list[ResultStore]) -> None:
    (one, alone), (two, together) = (of(store, spec(base, method)) for store in stores)
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-3, atol=2e-5)
    assert two.validation_loss == pytest.approx(one.validation_loss, abs=1e-5)
    assert [p.step for p in two.curve] == [p.step for p in one.curve] == list(range(1, 7))
    assert [p.loss for p in two.curve] == pytest.approx([p.loss for p in one.curve], abs=1e-5)
    assert [p.grad_norm for p in two.curve] == pytest.approx([p.grad_norm for p in one.curve], rel=1e-3)
    assert two.trainable_parameters == one.trainable_parameters
    assert not list(stores[1].folder(spec(base, method).key).glob("checkpoints"))
