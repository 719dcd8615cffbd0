"""FILet's candidate directions and their Fisher energies without ever keeping the directions (arXiv 2605.01046).

The candidates of a layer `W: (m, n)` are the columns of `V̂ = colnorm(WᵀW)` (n, n) and `Û = colnorm(W V̂)` (m, n). With
`P = W WᵀW` (m, n), the sums that FILet needs are

    Σ_t (x_tᵀ v̂_i)² = (WᵀW S WᵀW)_ii / v_i²        S = Σ x xᵀ              or  (Wᵀ S W)_ii / v_i²,  S = Σ (y − b)(y − b)ᵀ
    Σ_t (g_tᵀ û_i)² = (WᵀW S WᵀW)_ii / (v_i u_i)²   S = Σ h hᵀ, h = Wᵀg     or  (Pᵀ S P)_ii / (v_i u_i)²,  S = Σ g gᵀ

where v_i = ‖(WᵀW)_i‖ and u_i = ‖W v̂_i‖: the moment on the smaller side of the layer is always enough. Streamed token by token
(the covariance-free form), they need no moment at all: `xᵀ WᵀW = (y − b)ᵀ W` and `gᵀ W = hᵀ`, the layer's own input gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hubinit.numerics.products import ROWS, gram, matmul, sum_of_squares


@dataclass(frozen=True)
class Candidates:
    """The candidate directions of one layer, implicitly, through the smaller side of its weight.

    Attributes:
        weight: W (m, n) float32 or float64.
        gram: `WᵀW` (n, n) where n ≤ m, else None.
        cube: `P = W WᵀW` (m, n) where m < n, else None.
        v_squares: (n,) `‖(WᵀW)_i‖²` = v_i².
        uv_squares: (n,) `‖P_i‖²` = (v_i u_i)².
    """

    weight: Tensor
    gram: Tensor | None
    cube: Tensor | None
    v_squares: Tensor
    uv_squares: Tensor

    @classmethod
    def of(cls, weight: Tensor, smaller: Tensor | None = None) -> "Candidates":
        """Forms the Gram matrix of W's smaller side and one product with it.

        Args:
            weight: (m, n) float32 or float64.
            smaller: `W Wᵀ` (m, m) where m < n, else `WᵀW` (n, n), if it is at hand.
        """
        m, n = weight.shape
        if smaller is None:
            smaller = gram(weight.T if m < n else weight)
        if m < n:
            cube = smaller @ weight  # (m, n)
            return cls(weight, None, cube, _columns(weight, cube), cube.square().sum(0))
        return cls(weight, smaller, None, smaller.square().sum(0), _columns(smaller, smaller @ smaller))

    def input_energies(self, *, input_moment: Tensor | None = None, output_moment: Tensor | None = None) -> Tensor:
        """`Σ_t (x_tᵀ v̂_i)²` (n,) from one of two moments.

        Args:
            input_moment: `Σ x xᵀ` (n, n).
            output_moment: `Σ (y − b)(y − b)ᵀ` (m, m), used when there is no input moment.
        """
        if input_moment is not None:
            return divide(self._gram_form(input_moment), self.v_squares)
        assert output_moment is not None
        return divide(_columns(self.weight, output_moment @ self.weight), self.v_squares)

    def output_energies(
        self, *, output_moment: Tensor | None = None, input_gradient_moment: Tensor | None = None
    ) -> Tensor:
        """`Σ_t (g_tᵀ û_i)²` (n,) from one of two moments.

        Args:
            output_moment: `Σ g gᵀ` (m, m).
            input_gradient_moment: `Σ h hᵀ` (n, n) with h = Wᵀg, used when there is no output moment.
        """
        if output_moment is not None:
            cube = self.weight @ self.gram if self.cube is None else self.cube  # type: ignore[operator]
            return divide(_columns(cube, output_moment @ cube), self.uv_squares)
        assert input_gradient_moment is not None
        return divide(self._gram_form(input_gradient_moment), self.uv_squares)

    def _gram_form(self, moment: Tensor) -> Tensor:
        """`(WᵀW S WᵀW)_ii` (n,) for S: (n, n)."""
        if self.gram is not None:
            return _columns(self.gram, moment @ self.gram)
        inner = self.weight @ moment @ self.weight.T  # (m, m)
        return _columns(self.weight, inner @ self.weight)


def _columns(a: Tensor, b: Tensor) -> Tensor:
    """`(aᵀ b)_ii` (n,), where it cannot be negative but for rounding."""
    return (a * b).sum(0).clamp_min(0)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0)


def stream_input(weight: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, scratch: int) -> Tensor:
    """Unnormalised `Σ_t (x_tᵀ (WᵀW)_i)²` (n,) of one batch; divide the sum over batches by v_norms².

    Args:
        weight: (m, n), in the model's dtype.
        x: (T, n) inputs.
        y: (T, m) outputs.
        bias: (m,) or None.
        scratch: bytes that may be used for the Gram matrix; it is formed only where that saves time.
    """
    if gram_pays(weight, len(x), scratch, products=1):
        return _sum_squares(x, gram(weight).to(weight.dtype))
    total = weight.new_zeros(weight.shape[1], dtype=torch.promote_types(weight.dtype, torch.float32))
    for part in y.split(ROWS):
        linear = part if bias is None else part - bias  # (rows, m) = W x
        total += sum_of_squares(matmul(linear, weight))
    return total


def stream_output(weight: Tensor, h: Tensor, scratch: int) -> Tensor:
    """Unnormalised `Σ_t (g_tᵀ W (WᵀW)_i)²` (n,) of one batch from h = Wᵀg (T, n); divide by (v_norms · u_norms)²."""
    if gram_pays(weight, len(h), scratch, products=2):
        return _sum_squares(h, gram(weight).to(weight.dtype))
    total = weight.new_zeros(weight.shape[1], dtype=torch.promote_types(weight.dtype, torch.float32))
    for part in h.split(ROWS):
        # In bfloat16 the second product rounds the first anyway; so it need not be written in float32 before.
        linear = part @ weight.T if weight.dtype == torch.bfloat16 else matmul(part, weight.T)  # (rows, m)
        total += sum_of_squares(matmul(linear, weight))  # (rows, n)
    return total


def gram_pays(weight: Tensor, tokens: int, scratch: int, products: int) -> bool:
    """Whether forming WᵀW (m·n² + T·n² multiplications) costs less than `products` products with W (T·m·n each)."""
    m, n = weight.shape
    return 4 * n * n <= scratch and (m + tokens) * n < products * tokens * m


def _sum_squares(rows: Tensor, matrix: Tensor) -> Tensor:
    total = torch.zeros(matrix.shape[1], dtype=torch.promote_types(matrix.dtype, torch.float32), device=matrix.device)
    for part in rows.split(ROWS):
        total += sum_of_squares(matmul(part, matrix))  # (rows, n)
    return total
