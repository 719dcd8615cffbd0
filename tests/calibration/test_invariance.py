"""What a calibration must not depend on: batch size, padding, order, checkpointing, number of processes; and that it adds up."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.calibration import Calibration, Statistic, calibrate
from hubinit.models.layers import target_layers
from tests import cases
from tests.calibration.test_calibrate import EVERY, FILET, assert_same, error_of

SOME = ("llama", "gpt2", "opt", "bert", "vit", "t5")


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
@pytest.mark.parametrize("name", SOME)
def test_batch_size_and_padding_side(name: str, fisher: str) -> None:
    model = cases.build(name, dtype=torch.float64)
    runs = [
        calibrate(
            model,
            cases.batches(name, batch_size=size, padding=side, dtype=torch.float64),
            statistics=EVERY,
            fisher=fisher,
        )
        for size, side in ((1, "right"), (4, "right"), (4, "left"))
    ]
    assert_same(runs[0], runs[1])
    if name != "bert":  # absolute positions: left padding moves BERT's CLS token, which no one does
        assert_same(runs[0], runs[2])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 6))
def test_order_of_the_examples(seed: int, size: int) -> None:
    model = cases.build("qwen2", dtype=torch.float64)
    data = cases.batches("qwen2", batch_size=1, seed=seed)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = [data[index] for index in order]
    assert_same(calibrate(model, data, statistics=FILET), calibrate(model, mixed, statistics=FILET))
    parts = [calibrate(model, part, statistics=FILET) for part in (data[:size], data[size:]) if part]
    assert_same(calibrate(model, data, statistics=FILET), parts[0] if len(parts) == 1 else parts[0] + parts[1])


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit", "t5"])
def test_gradient_checkpointing(name: str) -> None:
    data = cases.batches(name, dtype=torch.float64)
    plain = calibrate(cases.build(name, dtype=torch.float64), data, statistics=EVERY)
    model = cases.build(name, dtype=torch.float64)
    model.gradient_checkpointing_enable()
    forwards = []
    handle = next(iter(target_layers(model).values())).register_forward_hook(lambda *_: forwards.append(1))
    assert_same(calibrate(model, data, statistics=EVERY), plain)
    handle.remove()
    assert len(forwards) > len(data) + 1  # it did run layers again
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_dropout_is_off_even_with_checkpointing() -> None:
    model = cases.build("opt", dtype=torch.float64).train()  # OPT has dropout 0.1 in the checkpointed layer itself
    model.gradient_checkpointing_enable()
    data = cases.batches("opt")
    assert_same(calibrate(model, data, statistics=FILET), calibrate(model, data, statistics=FILET))


def test_sampled_fisher_uses_the_model_and_the_seed() -> None:
    model, data = cases.build("llama", dtype=torch.float64), cases.batches("llama")
    empirical = calibrate(model, data, statistics=EVERY)
    first = calibrate(model, data, statistics=EVERY, fisher="sampled", seed=1)
    second = calibrate(model, data, statistics=EVERY, fisher="sampled", seed=2)
    name = "model.layers.0.mlp.up_proj"
    for kind in (Statistic.OUTPUT_MOMENT, Statistic.FISHER_OUTPUT, Statistic.MEAN_OUTPUT_DIAGONAL):
        assert error_of(first.layers[name].sums[kind], second.layers[name].sums[kind]) > 1e-3
        assert error_of(first.layers[name].sums[kind], empirical.layers[name].sums[kind]) > 1e-3
    for kind in (Statistic.GRADIENT, Statistic.INPUT_MOMENT):  # these have nothing to do with the labels drawn
        assert error_of(first.layers[name].sums[kind], empirical.layers[name].sums[kind]) < 1e-12
    assert first.loss == pytest.approx(empirical.loss)


def test_sampled_labels_follow_the_model() -> None:
    """Averaged over seeds, the sampled moment of the logits' gradients is diag(p) − p pᵀ."""
    from hubinit.calibration.loss import Supervision, loss_gradient

    p = torch.tensor([0.5, 0.2, 0.3, 0.0], dtype=torch.float64)
    draws = 4000
    logits = p.clamp_min(1e-30).log().expand(draws, 4).contiguous()
    rows = torch.arange(draws)
    supervision = Supervision(rows, torch.zeros(draws, dtype=torch.long), rows, torch.ones(draws, dtype=torch.long))
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient, _ = loss_gradient(logits, supervision, uniform)
    torch.testing.assert_close(gradient.T @ gradient / draws, p.diag() - p.outer(p), atol=0.02, rtol=0)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/rendezvous")
    model = cases.build("llama", dtype=torch.float64)
    data = cases.batches("llama", examples=7)
    mine = data[:1] if rank == 0 else data[1:]  # unequal shares
    for fisher in ("empirical", "sampled"):
        found = calibrate(model, mine, statistics=EVERY, fisher=fisher)
        found.save(Path(folder) / f"{fisher}-{rank}")
    dist.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    model, data = cases.build("llama", dtype=torch.float64), cases.batches("llama", examples=7)
    for fisher in ("empirical", "sampled"):
        single = calibrate(model, data, statistics=EVERY, fisher=fisher)
        for rank in (0, 1):
            both = Calibration.load(tmp_path / f"{fisher}-{rank}")
            assert_same(both, single)
            assert both.loss == pytest.approx(single.loss)
