"""The update of an anchored layer as one wider product: what two adapters add, at little more than one adapter's cost.

`s·B A x + s₀·B₀A₀ x`, where the anchor (A₀, B₀) is frozen, equals `C A x + E (A − A₀) x` with `C = s·B + s₀·B₀` and
`E = −s₀·B₀`. The two terms share x, and their outputs share one sum, so `[A; A − A₀]` and `[C, E]` make it two products
of rank 2r. At step 0 `A − A₀` and `C` are exactly zero, and so is the update, in every dtype and whatever order a product
sums in; the difference of two outputs would need the same order twice. Later it has no cancellation of large terms.

Multiply-adds for T tokens, as multiples of T·r·(m + n): LoRA takes 3 (output, gradient of x, gradients of A and B). Two
adapters take 5. This takes 5 in fewer, wider products, and fewer passes over (T, m): the scaling is folded into the
factors and the update is summed onto the base's output.
"""

from typing import Any

import torch
from torch import Tensor


def add_update(
    result: Tensor, x: Tensor, trained: tuple[Tensor, Tensor, float], anchor: tuple[Tensor, Tensor, float]
) -> Tensor:
    """`result + s·B A x + s₀·B₀A₀ x`, rounded once to the dtype of `result`.

    Args:
        result: the base layer's output (…, m).
        x: its input (…, n), in the dtype to compute in; under autocast, in autocast's.
        trained: A (r, n), B (m, r) and s.
        anchor: A₀ (r, n), B₀ (m, r) and s₀; no gradient reaches them.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    output: Tensor = _AddUpdate.apply(result, x, *trained, *anchor)  # type: ignore[no-untyped-call]
    return output


class _AddUpdate(torch.autograd.Function):
    """`add_update` with only the gradients that are needed: autograd would compute those of both halves of each product."""

    @staticmethod
    def forward(
        ctx: Any, result: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float, A0: Tensor, B0: Tensor, s0: float
    ) -> Tensor:
        m, n, r = result.shape[-1], x.shape[-1], A.shape[0]
        wide_A = torch.cat([A, A - A0]).to(x.dtype)  # (2r, n)
        wide_B = torch.cat([s * B + s0 * B0, -s0 * B0], dim=1).to(x.dtype)  # (m, 2r)
        rows = x.reshape(-1, n)  # (T, n)
        hidden = rows @ wide_A.T  # (T, 2r)
        output = torch.addmm(result.reshape(-1, m).to(x.dtype), hidden, wide_B.T)  # (T, m)
        ctx.save_for_backward(x, hidden[:, :r], wide_A, wide_B, A, B, A0, B0)
        ctx.scaling, ctx.dtypes = (s, s0), (A.dtype, B.dtype)
        return output.to(result.dtype).reshape(result.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, wide_A, wide_B, *factors = ctx.saved_tensors  # (…, n), (T, r), (2r, n), (m, 2r)
        of_result, of_x, of_A, of_B = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # to be differentiated once more, which the wide matrices cannot be
            of_inputs = differentiable_gradients(gradient, x, *factors, *ctx.scaling)
            return gradient, *of_inputs, None, None, None, None
        r = hidden.shape[1]
        rows = gradient.reshape(-1, gradient.shape[-1]).to(x.dtype)  # (T, m)
        inner = rows @ wide_B  # (T, 2r)
        grad_x = (inner @ wide_A).reshape(x.shape) if of_x else None  # (…, n)
        # C + E = s·B: the two halves together are the gradient of A x.
        inputs, both = x.reshape(-1, x.shape[-1]), inner[:, :r] + inner[:, r:]  # (T, n), (T, r)
        grad_A = (both.T @ inputs).to(ctx.dtypes[0]) if of_A else None  # (r, n)
        grad_B = (ctx.scaling[0] * (rows.T @ hidden)).to(ctx.dtypes[1]) if of_B else None  # (m, r)
        return gradient if of_result else None, grad_x, grad_A, grad_B, None, None, None, None


def differentiable_gradients(
    gradient: Tensor, x: Tensor, A: Tensor, B: Tensor, A0: Tensor, B0: Tensor, s: float, s0: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, A and B in operations that autograd tracks, for curvature: `gradient` (…, m), x (…, n)."""
    rows, inputs = gradient.reshape(-1, gradient.shape[-1]).to(A.dtype), x.reshape(-1, x.shape[-1]).to(A.dtype)
    inner = s * (rows @ B)  # (T, r)
    grad_x = (inner @ A + s0 * (rows @ B0) @ A0).reshape(x.shape).to(x.dtype)  # (…, n)
    return grad_x, inner.T @ inputs, s * rows.T @ (inputs @ A.T)
