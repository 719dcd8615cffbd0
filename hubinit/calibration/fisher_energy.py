"""FILet's candidate directions and their Fisher energies without ever keeping the directions (arXiv 2605.01046).

The candidates of a layer `W: (m, n)` are the columns of `V̂ = colnorm(WᵀW)` (n, n) and `Û = colnorm(W V̂)` (m, n). With
`P = W WᵀW` (m, n), the sums that FILet needs are

    Σ_t (x_tᵀ v̂_i)² = (WᵀW S WᵀW)_ii / v_i²        S = Σ x xᵀ              or  (Wᵀ S W)_ii / v_i²,  S = Σ (y − b)(y − b)ᵀ
    Σ_t (g_tᵀ û_i)² = (WᵀW S WᵀW)_ii / (v_i u_i)²   S = Σ h hᵀ, h = Wᵀg     or  (Pᵀ S P)_ii / (v_i u_i)²,  S = Σ g gᵀ

where v_i = ‖(WᵀW)_i‖ and u_i = ‖W v̂_i‖: the moment on the smaller side of the layer is always enough. Streamed token by token
(the covariance-free form), they need no moment at all: `xᵀ WᵀW = (y − b)ᵀ W` and `gᵀ W = hᵀ`, the layer's own input gradient.
"""

import torch
from torch import Tensor

from hubinit.calibration.products import ROWS, matmul, sum_of_squares


def cubed(weight: Tensor) -> Tensor:
    """`P = W WᵀW` (m, n), through the Gram matrix of the smaller side."""
    m, n = weight.shape
    if m < n:
        return (weight @ weight.T) @ weight  # (m, m) @ (m, n)
    return weight @ (weight.T @ weight)  # (m, n) @ (n, n)


def candidate_norms(weight: Tensor, cube: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The column norms that turn `WᵀW` and `W V̂` into unit directions.

    `V̂[:, i] = (WᵀW)[:, i] / v_norms[i]` and `Û[:, i] = W V̂[:, i] / u_norms[i]`. A column of W that is zero has both norms zero
    and no direction.

    Args:
        weight: (m, n) float32 or float64.
        cube: `cubed(weight)` where it is at hand.

    Returns:
        v_norms (n,), u_norms (n,).
    """
    cube = cubed(weight) if cube is None else cube
    v_norms = (weight * cube).sum(0).clamp_min(0).sqrt()  # ‖(WᵀW)_i‖² = (Wᵀ P)_ii
    u_norms = divided(cube.norm(dim=0), v_norms)  # ‖W (WᵀW)_i‖ / v_i
    return v_norms, u_norms


def divided(a: Tensor, b: Tensor) -> Tensor:
    """Quotient a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0)


def _gram_form(weight: Tensor, moment: Tensor) -> Tensor:
    """`(WᵀW S WᵀW)_ii` (n,) for S: (n, n)."""
    m, n = weight.shape
    if m < n:
        inner = weight @ moment @ weight.T  # (m, m)
        return (weight * (inner @ weight)).sum(0)
    gram = weight.T @ weight  # (n, n)
    return (gram * (moment @ gram)).sum(0)


def input_energies(
    weight: Tensor, *, input_moment: Tensor | None = None, output_moment: Tensor | None = None
) -> Tensor:
    """`Σ_t (x_tᵀ v̂_i)²` (n,) from one of two moments.

    Args:
        weight: (m, n).
        input_moment: `Σ x xᵀ` (n, n).
        output_moment: `Σ (y − b)(y − b)ᵀ` (m, m), used when there is no input moment.
    """
    v_norms, _ = candidate_norms(weight)
    if input_moment is not None:
        raw = _gram_form(weight, input_moment.to(weight))
    else:
        assert output_moment is not None
        raw = (weight * (output_moment.to(weight) @ weight)).sum(0)
    return divided(raw.clamp_min(0), v_norms.square())


def output_energies(
    weight: Tensor, *, output_moment: Tensor | None = None, input_gradient_moment: Tensor | None = None
) -> Tensor:
    """`Σ_t (g_tᵀ û_i)²` (n,) from one of two moments.

    Args:
        weight: (m, n).
        output_moment: `Σ g gᵀ` (m, m).
        input_gradient_moment: `Σ h hᵀ` (n, n) with h = Wᵀg, used when there is no output moment.
    """
    cube = cubed(weight)
    if output_moment is not None:
        raw = (cube * (output_moment.to(weight) @ cube)).sum(0)
    else:
        assert input_gradient_moment is not None
        raw = _gram_form(weight, input_gradient_moment.to(weight))
    return divided(raw.clamp_min(0), cube.square().sum(0))  # (v_i u_i)² = ‖P_i‖²


def streamed_input(weight: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, scratch: int) -> Tensor:
    """Unnormalised `Σ_t (x_tᵀ (WᵀW)_i)²` (n,) of one batch; divide the sum over batches by v_norms².

    Args:
        weight: (m, n), in the model's dtype.
        x: (T, n) inputs.
        y: (T, m) outputs.
        bias: (m,) or None.
        scratch: bytes that may be used for the Gram matrix; it is formed only where that saves time.
    """
    if gram_pays(weight, len(x), scratch, products=1):
        gram = matmul(weight.T, weight).to(weight.dtype)  # (n, n)
        return _summed_squares(x, gram)
    total = weight.new_zeros(weight.shape[1], dtype=torch.promote_types(weight.dtype, torch.float32))
    for part in y.split(ROWS):
        linear = part if bias is None else part - bias  # (rows, m) = W x
        total += sum_of_squares(matmul(linear, weight))
    return total


def streamed_output(weight: Tensor, h: Tensor, scratch: int) -> Tensor:
    """Unnormalised `Σ_t (g_tᵀ W (WᵀW)_i)²` (n,) of one batch from h = Wᵀg (T, n); divide by (v_norms · u_norms)²."""
    if gram_pays(weight, len(h), scratch, products=2):
        gram = matmul(weight.T, weight).to(weight.dtype)  # (n, n)
        return _summed_squares(h, gram)
    total = weight.new_zeros(weight.shape[1], dtype=torch.promote_types(weight.dtype, torch.float32))
    for part in h.split(ROWS):
        total += sum_of_squares(matmul(matmul(part, weight.T), weight))  # (rows, n)
    return total


def gram_pays(weight: Tensor, tokens: int, scratch: int, products: int) -> bool:
    """Whether forming WᵀW (m·n² + T·n² multiplications) costs less than `products` products with W (T·m·n each)."""
    m, n = weight.shape
    return 4 * n * n <= scratch and (m + tokens) * n < products * tokens * m


def _summed_squares(rows: Tensor, matrix: Tensor) -> Tensor:
    total = torch.zeros(matrix.shape[1], dtype=torch.promote_types(matrix.dtype, torch.float32), device=matrix.device)
    for part in rows.split(ROWS):
        total += sum_of_squares(matmul(part, matrix))  # (rows, n)
    return total
