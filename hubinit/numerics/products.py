"""Products of activations, accumulated in float32 whatever the model's dtype.

bfloat16 operands are multiplied exactly: a product of two of them fits in float32, so only the float32 additions round, and
the sum is as good as that of a float32 model (measured: 1e-7 relative, against 2e-3 for a plain bfloat16 matmul).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

BLOCKS, BLOCKS_FROM = (
    3,
    256,
)  # a symmetric product of at least BLOCKS_FROM columns is formed in BLOCKS × BLOCKS blocks, six of nine
ROWS = 4096  # tokens handled at a time, so that no float32 copy of a whole batch of activations is made


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for a float64 model, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def _bfloat16_operands() -> Iterator[None]:
    """Lets oneDNN read float32 operands as bfloat16 and keep float32 sums: exact for values that came from bfloat16."""
    backend: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` with the sum and the result in float32 (float64 for float64 operands).

    Args:
        a: (p, k). Rounded to bfloat16 first when `b` is bfloat16 (it is already, or it is rounded as the model would).
        b: (k, q).

    Returns:
        (p, q).
    """
    if b.dtype in (torch.float32, torch.float64):
        return a.to(b.dtype) @ b
    if b.is_cuda:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    if b.dtype == torch.bfloat16:
        with _bfloat16_operands():
            return a.float() @ b.float()
    return a.float() @ b.float()


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += aᵀ b`, in place.

    Args:
        total: (p, q) float32 or float64, on the operands' device.
        a: (T, p).
        b: (T, q).
    """
    for a_part, b_part in zip(a.split(ROWS), b.split(ROWS), strict=True):
        if a_part.dtype in (torch.float32, torch.float64):
            total.addmm_(a_part.T, b_part.to(a_part.dtype))
        elif a_part.is_cuda:
            total.add_(torch.mm(a_part.T, b_part.to(a_part.dtype), out_dtype=torch.float32))
        elif a_part.dtype == torch.bfloat16:
            with _bfloat16_operands():
                total.addmm_(a_part.float().T, b_part.float())
        else:
            total.addmm_(a_part.float().T, b_part.float())


def add_gram_(total: Tensor, a: Tensor) -> None:
    """`total += aᵀ a`, in place, in blocks of columns on and above the diagonal: `mirror` gives the rest at the end.

    Args:
        total: (p, p) float32 or float64, on the operand's device; entries below the diagonal are undefined.
        a: (T, p).
    """
    width = total.shape[0]
    block = -(-width // BLOCKS) if width >= BLOCKS_FROM else width
    for part in a.split(ROWS):
        low = part.dtype == torch.bfloat16 and not part.is_cuda
        part = part if part.is_cuda else part.to(total.dtype)  # once, not for each block
        with _bfloat16_operands() if low else nullcontext():
            for start in range(0, width, block):
                stop = start + block
                add_product_(total[start:stop, start:], part[:, start:stop], part[:, start:])  # (block, width − start)


def mirror(upper: Tensor) -> Tensor:
    """The symmetric matrix (p, p) with this upper triangle, in the same memory."""
    return upper.triu_().add_(upper.triu(1).T)


def gram(weight: Tensor) -> Tensor:
    """`weightᵀ weight` (n, n) in float32 (float64) of a weight (m, n) in any dtype."""
    total = weight.new_zeros(weight.shape[1], weight.shape[1], dtype=sum_dtype(weight.dtype))
    add_gram_(total, weight)
    return mirror(total)


def sum_of_squares(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """`Σ_t w_t² rows_t²` (p,) in float32 (float64), for rows (T, p) and weights (T,) or all one."""
    total = rows.new_zeros(rows.shape[1], dtype=sum_dtype(rows.dtype))
    for start in range(0, len(rows), ROWS):
        squares = rows[start : start + ROWS].to(total.dtype).square()  # (rows, p)
        if weights is None:
            total += squares.sum(0)
        else:
            total += weights[start : start + ROWS].to(total.dtype).square() @ squares
    return total
