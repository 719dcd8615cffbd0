"""A number that changes when a model's weights do: what shows that a base is still the one that was loaded."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hubinit.models.layers import output_heads

CHUNK = 1 << 20  # 8-byte words that are multiplied at once: 8 MiB of scratch memory


@torch.no_grad()
def fingerprint(model: nn.Module, *, heads: bool = True) -> int:
    """A 64-bit sum over all bits of the weights and stored buffers, each 8-byte word times an odd number of its place.

    One changed word always changes it, because an odd factor has an inverse modulo 2⁶⁴; several changed ones cancel with a chance
    of about 2⁻⁶⁴. It is computed on the model's device. Buffers that are not stored are left out: a forward pass may fill them.

    Args:
        model: without adapters.
        heads: False leaves output heads out, which a run of a labelled kind draws anew.
    """
    factors: dict[torch.device, Tensor] = {}
    total = 0
    for tensor in stored_tensors(model, heads):
        words = words_of(tensor)  # (bytes / 8,)
        if words.device not in factors:
            factors[words.device] = odd_numbers().to(words.device)  # (CHUNK,)
        weights = factors[words.device]
        for start in range(0, len(words), CHUNK):
            chunk = words[start : start + CHUNK]  # (at most CHUNK,)
            total = (total * 3 + int((chunk * weights[: len(chunk)]).sum())) % 2**64  # the order of chunks counts
    return total


def stored_tensors(model: nn.Module, heads: bool) -> Iterator[Tensor]:
    """Parameters, tied ones once, and buffers that are stored."""
    left_out = set() if heads else set(output_heads(model))
    seen: set[int] = set()
    module: Any
    for name, module in model.named_modules():
        if name in left_out:
            continue
        kept = module._buffers.keys() - module._non_persistent_buffers_set
        for tensor in (*module._parameters.values(), *(module._buffers[name] for name in sorted(kept))):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def words_of(tensor: Tensor) -> Tensor:
    """The bits of a tensor as 64-bit integers, filled up with zeros."""
    flat = tensor.detach().as_subclass(Tensor).contiguous().reshape(-1).view(torch.uint8)  # (bytes,)
    if left := -len(flat) % 8:
        flat = nn.functional.pad(flat, (0, left))  # (a multiple of 8,)
    if flat.data_ptr() % 8:
        flat = flat.clone()
    return flat.view(torch.int64)


def odd_numbers() -> Tensor:
    """`CHUNK` random odd 64-bit numbers, always the same."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**63), 2**63 - 1, (CHUNK,), generator=generator, dtype=torch.int64)  # (CHUNK,)
    return numbers | 1
