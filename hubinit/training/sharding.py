"""The frozen base cut over the processes that train a run together (FSDP): each holds a part of every weight.

A block's weights are gathered when it runs, forward or backward, and let go after it. Adapters are small: every process holds
them whole, and DDP sums their gradients, as it does without sharding. So a step adds up to the same numbers.

This is torch's own `fully_shard` (FSDP2), not accelerate's switch for it, for two reasons. accelerate 1.15 has FSDP for GPUs
alone: on a CPU it makes plain DDP of it, without a word. And it shards a model for good, whereas here the base is whole again
when training ends, bit for bit and in the same objects, for the gates, the scores and the next run.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hubinit.adapters.base import untouched_base
from hubinit.errors import HubinitError
from hubinit.models.layers import base_of
from hubinit.training.ranks import take_over


@contextmanager
def shard_base(model: Any) -> Iterator[Any]:
    """A twin of a model, to be trained in its place: the same adapter parameters, and the frozen base cut over all ranks.

    Meanwhile the base of the model itself is empty; after the block it is whole again on every rank. After an error it stays
    empty, because the ranks would have to fill it together.

    Args:
        model: a PeftModel, whose base is whole, frozen and the same on all ranks.

    Raises:
        HubinitError: the base has no blocks that can be gathered one by one.
    """
    with untouched_base(model) as base:
        frozen = {
            weight for weight in base.parameters() if not weight.requires_grad and weight.ndim
        }  # a scalar has no parts
    others = [parameter for parameter in model.parameters() if parameter not in frozen]
    take_over(others)
    shared = (*model.parameters(), *model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})  # other modules, the same tensors
    mesh = init_device_mesh(next(iter(frozen)).device.type, (distributed.get_world_size(),))
    for module in (*find_blocks(twin), twin):  # at last what is in no block: embeddings, the head
        weights = [weight for weight in module.parameters() if weight in frozen]
        fully_shard(module, mesh=mesh, ignored_params=set(others))
        for weight in weights:
            weight.data = weight.data.new_empty(0)
    yield twin
    parts = dict(twin.named_parameters())
    for name, weight in model.named_parameters():
        if weight in frozen:
            weight.data = parts[name].full_tensor()


def find_blocks(model: Any) -> list[nn.Module]:
    """The repeated blocks of a model, by the names that its class gives them.

    Raises:
        HubinitError: there are none.
    """
    names = getattr(base_of(model), "_no_split_modules", None) or ()
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [block for stack in stacks for block in stack if type(block).__name__ in names]
    if not blocks:
        kind = type(base_of(model)).__name__
        raise HubinitError(f"{kind} does not say what its blocks are, so --fsdp cannot shard it; leave --fsdp out.")
    return blocks


def is_sharded(model: nn.Module) -> bool:
    """Whether the frozen weights of a model are cut over the ranks."""
    return isinstance(model, FSDPModule)


def sum_gradients(model: nn.Module) -> DistributedDataParallel:
    """The model with DDP for what is trained; its parameters must be the same on all ranks."""
    return DistributedDataParallel(
        model,
        init_sync=False,  # it would overwrite each rank's part of the base with that of the first
        find_unused_parameters=True,
        broadcast_buffers=False,
    )
