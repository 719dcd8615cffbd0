"""Two processes train one run together, and one process trains it alone: the same weights, up to rounding."""

import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from safetensors.torch import load_file
from torch.utils.data import BatchSampler
from transformers import Trainer

from hubinit.data.encode import IGNORED, ImageExample
from hubinit.errors import HubinitError
from hubinit.methods import METHODS
from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.local import LocalExecutor
from hubinit.runs.executors.together import TogetherExecutor
from hubinit.runs.full import WEIGHTS
from hubinit.runs.job import Finished, Job
from hubinit.runs.plan import PlannedRun
from hubinit.runs.preflight import check_processes
from hubinit.runs.sweep import sweep
from hubinit.specs import FULL, CalibrationSpec, DataSpec, MethodSpec, ModelSpec, Recipe, RunSpec
from hubinit.training.ranks import Filled, Rounded, split_batch
from hubinit.training.trainer import AdapterTrainer
from tests import texts

# The examples of all runs here: 11, so that the last step of an epoch is a part of one.
DATA = """
from hubinit import tasks
from hubinit.data.encode import Example
pool = [Example(f"What comes after number {i}?", f" It is {i + 1}." * (1 + i % 3)) for i in range(11)]
tasks.training_examples = lambda data, seed: (pool, pool[:3])
"""
SCRIPT = (
    DATA
    + """
from hubinit.runs import worker
worker.main()
"""
)
# Acts out the seed's fate: 9, the second rank is killed and the first waits for it; 8, it fails; 7, it is killed, which the first
# notices before anybody; 6, the first fails and the second waits.
ACTOR = """
import os, signal, sys, time
from hubinit.records import Provenance, ResultStore, RunResult
from hubinit.runs.job import Finished, Job, Progress
def emit(event): print(event.model_dump_json(), flush=True)
def end(status, reason=None):
    if not job.rank:
        made = Provenance(versions={}, hardware={}, command=str(os.getpid()), created="")
        ResultStore(job.store).write(RunResult(key=key, spec=job.spec, status=status, reason=reason, provenance=made))
    emit(Finished(key=key, status=status, reason=reason))
for line in sys.stdin:
    job = Job.model_validate_json(line)
    key, seed = job.spec.key, job.spec.seed
    assert job.processes == 2 and job.port
    emit(Progress(key=key, stage="join" if job.rank else "train"))
    if job.rank:
        if seed == 7: (job.store / "up").touch(); time.sleep(0.3)
        if seed in (7, 9): os.kill(os.getpid(), signal.SIGKILL)
        if seed == 8: end("failed", "RuntimeError: no more memory")
        if seed in (6, 8): time.sleep(600)
    elif seed in (6, 7):
        while seed == 7 and not (job.store / "up").exists(): time.sleep(0.02)
        end("failed", "connection closed")
        continue
    elif seed in (8, 9): time.sleep(600)
    end("ok")
"""
TRAINED = ("lora", "pissa", "dora", "kasa", "lora-dash", "lora-da", FULL)
SHARDED = (
    "lora",
    "pissa",
    "dora",
    "frozen-a",
)  # plain, with an anchor, with the norms of the weights, with a frozen factor


def spec(base: Path, method: str, seed: int = 0) -> RunSpec:
    adapter, optimiser = method != FULL, "adamw"
    if method == "frozen-a":
        method, optimiser = "lora", method
    calibrated = adapter and METHODS[method].statistics(METHODS[method].options())
    return RunSpec(
        model=ModelSpec(id=str(base), dtype="float32"),
        method=MethodSpec(name=method, options={"warmup": 2} if method == "lora-dash" else {}),
        rank=2 if adapter else 0,
        alpha=4 if adapter else 0,
        data=DataSpec(tasks=("boolq",)),
        recipe=Recipe(epochs=2, batch_size=4, micro_batch_size=1, max_length=64, warmup_ratio=0.0, optimiser=optimiser),
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
def stores(base: Path, command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ResultStore]:
    """All runs, by one process and by two, with and without a part of the base each."""
    made = {}
    for name, executor, runs in (
        ("one", LocalExecutor(command), (*TRAINED, "frozen-a")),
        ("two", TogetherExecutor(2, command), TRAINED),
        ("sharded", TogetherExecutor(2, command, fsdp=True), SHARDED),
    ):
        made[name] = store = ResultStore(tmp_path_factory.mktemp(name))
        with closing(executor):
            for method in runs:
                *_, end = executor.submit(Job(store=store.root, spec=spec(base, method), device="cpu"))
                assert isinstance(end, Finished), end
                assert end.status == "ok", end.reason
    return made


def of(store: ResultStore, run: RunSpec) -> tuple[RunResult, dict[str, torch.Tensor]]:
    result = store.readable(run.key)
    assert result is not None
    path = WEIGHTS if run.method.name == FULL else "adapter/adapter_model.safetensors"
    return result, load_file(store.folder(run.key) / path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "method"), [*(("two", method) for method in TRAINED), *(("sharded", method) for method in SHARDED)]
)
def test_two_processes_equal_one(how: str, method: str, base: Path, stores: dict[str, ResultStore]) -> None:
    (one, alone), (two, together) = (of(stores[name], spec(base, method)) for name in ("one", how))
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-3, atol=2e-5)
    assert two.validation_loss == pytest.approx(one.validation_loss, abs=1e-5)
    assert [p.step for p in two.curve] == [p.step for p in one.curve] == list(range(1, 7))
    assert [p.loss for p in two.curve] == pytest.approx([p.loss for p in one.curve], abs=1e-5)
    assert [p.grad_norm for p in two.curve] == pytest.approx([p.grad_norm for p in one.curve], rel=1e-3)
    assert two.trainable_parameters == one.trainable_parameters
    assert not list(stores[how].folder(spec(base, method).key).glob("checkpoints"))


def test_a_rank_that_dies_or_fails_ends_the_run_with_its_reason_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "actor.py").write_text(ACTOR)
    runs = [PlannedRun(spec(tmp_path, "lora", seed), "boolq", ()) for seed in (1, 2, 9, 8, 7, 6, 3)]
    executor = TogetherExecutor(2, (sys.executable, str(tmp_path / "actor.py")))
    first, second, killed, failed, noticed, own, last = sweep(runs, ResultStore(tmp_path / "store"), executor=executor)
    assert {first.status, second.status, last.status} == {"ok"}
    assert (
        first.provenance.command == second.provenance.command != last.provenance.command
    )  # the same worker, a new one
    for result in (killed, failed, noticed, own):
        assert result.status == "failed"
    for result in (killed, noticed):
        assert "process 2 of 2 failed: the worker was killed (Killed)" in (result.reason or "")
    assert "process 2 of 2 failed: RuntimeError: no more memory" in (failed.reason or "")
    assert f"its output is in logs/{failed.key}.rank1.log" in (failed.reason or "")
    assert own.reason == "connection closed"
    assert all(worker.process is None for worker in executor.workers)


@pytest.mark.parametrize(
    ("examples", "batch", "micro", "ranks"), [(11, 4, 1, 2), (9, 8, 2, 4), (3, 6, 2, 3), (8, 4, 2, 2)]
)
def test_a_step_of_all_ranks_holds_the_examples_of_one_process(
    examples: int, batch: int, micro: int, ranks: int
) -> None:
    """Held to the sampler that accelerate gives one process, over two epochs; what is left is blank, and no rank has less."""
    micro, passes = split_batch(batch, micro, ranks)
    alone = SeedableRandomSampler(range(examples), generator=torch.Generator(), data_seed=5)
    order = Rounded(examples, 5, micro * ranks)
    shards = [
        BatchSamplerShard(BatchSampler(order, batch_size=micro, drop_last=False), ranks, rank) for rank in range(ranks)
    ]
    for epoch in range(2):
        alone.set_epoch(epoch)
        one = list(alone)
        dealt = []
        for shard in shards:
            order.set_epoch(epoch)
            dealt.append(list(shard))
            assert len(dealt[-1]) == len(shard)
        assert len({len(batches) for batches in dealt}) == 1
        for step in range(-(-examples // batch)):
            held = [i for rank in dealt for part in rank[step * passes : (step + 1) * passes] for i in part]
            assert sorted(i for i in held if i < examples) == sorted(one[step * batch : (step + 1) * batch])


def test_an_epoch_that_is_gone_on_with_has_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's `set_epoch` ends at the samplers that it puts around ours to skip what was trained."""
    order, epochs = Rounded(11, 5, 2), []
    trainer = object.__new__(AdapterTrainer)
    trainer.order = order
    monkeypatch.setattr(Trainer, "_run_epoch", lambda self, **kwargs: epochs.append(list(order)))
    trainer._run_epoch(epoch=1)
    alone = SeedableRandomSampler(range(11), generator=torch.Generator(), data_seed=5)
    alone.set_epoch(1)
    assert epochs == [[*alone, 11]]


def test_a_blank_has_no_label() -> None:
    filled = Filled([{"input_ids": [5, 6], "labels": [IGNORED, 6]}])
    assert len(filled) == 1
    assert filled[1] == {"input_ids": [5, 6], "labels": [IGNORED, IGNORED]}
    assert Filled([ImageExample(image=None, label=3)])[1].label == IGNORED


def test_a_batch_that_the_processes_cannot_share_is_refused(base: Path) -> None:
    assert split_batch(16, 4, 2) == (4, 2)
    assert split_batch(4, 4, 2) == (2, 1)  # the share of a rank is smaller than a micro batch
    with pytest.raises(HubinitError, match=r"3 processes cannot share a batch of 4"):
        check_processes([spec(base, "lora")], 3)
    with pytest.raises(HubinitError, match=r"8 processes cannot share a batch of 4"):
        check_processes([spec(base, "lora")], 8)
    check_processes([spec(base, "lora")], 4)


@pytest.mark.parametrize(
    ("method", "quantize", "processes", "message"),
    [
        ("lora", None, 1, "--fsdp cuts the base over processes: add --processes-per-run 2 or more"),
        (FULL, None, 2, "--fsdp shards a frozen base, and 'full' trains all of it"),
        ("lora-dash", None, 2, "'lora-dash' reads whole weights while it trains"),
        ("lora", "nf4", 2, "--fsdp cannot shard a quantised base"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_the_work(
    method: str, quantize: str | None, processes: int, message: str, base: Path
) -> None:
    run = spec(base, method)
    run = run.model_copy(update={"model": run.model.model_copy(update={"quantize": quantize})})
    with pytest.raises(HubinitError, match=message):
        check_processes([run], processes, fsdp=True)
    check_processes([spec(base, "pissa")], 2, fsdp=True)
