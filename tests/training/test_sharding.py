"""Two processes cut the frozen base of tiny models between them; one process with the whole model says what comes out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch.distributed.tensor import DTensor

from hubinit import adapters
from hubinit.errors import HubinitError
from hubinit.runs.executors.together import free_port
from hubinit.training.ranks import join_ranks
from hubinit.training.sharding import find_blocks, shard_base, sum_gradients
from tests.cases import batches, build

NAMES = ("llama_tied", "gpt2", "vit", "t5", "mixtral")  # tied weights, Conv1D, odd sizes, two stacks, experts
BATCHES = {"examples": 4, "batch_size": 2}


def adapted(name: str) -> Any:
    """With anchors, and with a head where there are classes: what is not of the base but partly frozen."""
    return adapters.initialize(build(name), "pissa", rank=2, alpha=4, seed=0)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def take_part(rank: int, port: int, folder: Path) -> None:
    """What one of the two processes sees, written to a file."""
    torch.set_num_threads(1)
    seen = {}
    with join_ranks(rank, 2, port, torch.device("cpu")):
        for name in NAMES:
            model = adapted(name)
            objects = dict(model.named_parameters())
            values = {name: value.detach().clone() for name, value in objects.items()}
            with shard_base(model) as twin:
                summed = sum_gradients(twin)
                summed(**batches(name, **BATCHES)[rank]).loss.backward()
                parts = [part for part in twin.parameters() if isinstance(part, DTensor)]
                held = sum(part.to_local().numel() for part in parts)
                left = {name for name, value in objects.items() if value.numel()}
            now = dict(model.named_parameters())
            seen[name] = {
                "gradients": gradients(model),
                "held": held,
                "parts": sum(part.numel() for part in parts),
                "whole outside": left,
                "same": all(now[name] is value for name, value in objects.items()),
                "equal": all(torch.equal(now[name], value) for name, value in values.items()),
            }
    torch.save(seen, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(take_part, (free_port(), folder), 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_of_two_parts_are_those_of_the_whole(name: str, seen: list[dict[str, Any]]) -> None:
    model = adapted(name)
    for batch in batches(name, **BATCHES):
        (model(**batch).loss / 2).backward()
    expected = gradients(model)
    for rank in seen:
        assert rank[name]["gradients"].keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(rank[name]["gradients"][parameter], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_each_holds_its_part_and_the_base_is_whole_again_in_the_same_objects(
    name: str, seen: list[dict[str, Any]]
) -> None:
    weights = list(build(name).parameters())
    adapter = {key for key, _ in adapted(name).named_parameters() if "lora_" in key or "modules_to_save" in key}
    for index, rank in enumerate(seen):
        assert rank[name]["parts"] == sum(weight.numel() for weight in weights)
        assert rank[name]["held"] == sum(
            part.numel() for weight in weights for part in weight.chunk(2)[index : index + 1]
        )
        assert rank[name]["whole outside"] == adapter
        assert rank[name]["same"] and rank[name]["equal"]


def test_a_model_that_names_no_blocks_is_refused() -> None:
    with pytest.raises(HubinitError, match=r"^Sequential does not say what its blocks are, so --fsdp cannot shard it"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))
