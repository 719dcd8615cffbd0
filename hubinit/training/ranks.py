"""Processes that train one run together, each on its share of every batch: the ranks of torch's process group.

What a step adds up to is what one process would compute: the same examples, and every label token weighs the same.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from accelerate.state import AcceleratorState
from torch import Tensor, distributed
from torch.utils.data import Dataset, Sampler

from hubinit.data.encode import IGNORED, ImageExample
from hubinit.errors import HubinitError

PATIENCE = timedelta(minutes=30)  # a rank that is silent for longer, without being dead, ends the run


@contextmanager
def join_ranks(rank: int, ranks: int, port: int, device: torch.device) -> Iterator[None]:
    """The process group, for as long as a run trains; nothing with one rank.

    After an error it is left as it is, because the others may wait in it: the executor then ends all ranks.

    Args:
        rank: of this process, from 0.
        ranks: how many there are.
        port: where rank 0 listens on this machine.
        device: nccl joins GPUs, gloo the rest.
    """
    if ranks == 1:
        yield
        return
    threads, before = torch.get_num_threads(), dict(os.environ)
    os.environ |= {  # accelerate reads these
        "RANK": str(rank),
        "LOCAL_RANK": "0" if device.type == "cuda" else str(rank),  # each process sees its own GPU only
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(max(1, threads // ranks)),
    }
    torch.set_num_threads(max(1, threads // ranks))
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield
    distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.clear()
    os.environ.update(before)
    torch.set_num_threads(threads)


def count_ranks() -> int:
    """How many processes train together; 1 outside a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def agree(decision: bool) -> bool:
    """What the first rank decides."""
    if count_ranks() == 1:
        return decision
    flag = torch.tensor(int(decision))  # on the CPU, where gloo is
    distributed.broadcast(flag, 0)
    return bool(flag)


def take_over(tensors: Sequence[Tensor]) -> None:
    """Overwrites tensors with those of the first rank."""
    if count_ranks() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.data, 0)


def split_batch(batch_size: int, micro_batch_size: int, ranks: int = 1) -> tuple[int, int]:
    """The examples per forward pass of one rank, and the forward passes of a step: batch = micro · passes · ranks.

    Raises:
        HubinitError: the batch cannot be cut so.
    """
    micro = min(micro_batch_size, batch_size // ranks)
    if micro == 0 or batch_size % (micro * ranks):
        raise HubinitError(
            f"{ranks} processes cannot share a batch of {batch_size} in micro batches of {micro_batch_size}: set "
            "recipe.batch_size to a multiple of recipe.micro_batch_size × processes."
        )
    return micro, batch_size // (micro * ranks)


class Filled(Dataset[Any]):
    """Examples, and after the last one a blank that adds nothing to any loss or count."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """Of the examples alone: a run's epochs are counted in them."""
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        if index < len(self.examples):
            return self.examples[index]
        first = self.examples[0]
        if isinstance(first, ImageExample):
            return replace(first, label=IGNORED)
        return {**first, "labels": [IGNORED] * len(first["labels"])}


class Rounded(Sampler[int]):
    """The order of one process, with blanks at the end of an epoch so that all ranks have equally many full micro batches.

    accelerate deals out the micro batches in turns. It would fill up the last round with examples of the first.
    """

    def __init__(self, examples: int, seed: int, multiple: int) -> None:
        """Prepares the order.

        Args:
            examples: how many there are.
            seed: as the Trainer seeds a run in one process.
            multiple: micro batch size · ranks.
        """
        self.order = SeedableRandomSampler(range(examples), generator=torch.Generator(), data_seed=seed)
        self.blank, self.blanks = examples, -examples % multiple

    def __len__(self) -> int:
        return self.blank + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [self.blank] * self.blanks

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the beginning of each epoch."""
        self.order.set_epoch(epoch)
