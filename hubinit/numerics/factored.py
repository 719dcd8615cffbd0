"""Low-rank changes of a weight by their factors: sizes, products and subspaces, without the (m, n) matrix where it can be had.

All in float64 on the CPU: the changes of the first steps are small differences.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor


@dataclass(frozen=True)
class Factored:
    """The matrix L R, with L (m, k) and R (k, n) in float64."""

    L: Tensor
    R: Tensor

    @property
    def norm(self) -> float:
        """‖L R‖ (Frobenius), from ‖L R‖² = tr(LᵀL · R Rᵀ)."""
        square = ((self.L.T @ self.L) * (self.R @ self.R.T)).sum()  # () sum of (k, k)
        return math.sqrt(max(float(square), 0.0))

    def dot(self, G: Tensor) -> float:
        """⟨L R, G⟩ (Frobenius) for G (m, n) in any dtype, from ⟨L R, G⟩ = ⟨R, LᵀG⟩."""
        projected = self.L.T.to(G) @ G  # (k, n)
        return float((projected.double() * self.R.to(G.device)).sum())


def change(A0: Tensor, B0: Tensor, A1: Tensor, B1: Tensor, s: float) -> Factored:
    """`s·(B₁A₁ − B₀A₀)` as `s·[B₁ − B₀, B₀] [A₁; A₁ − A₀]`, where small steps do not cancel.

    Args:
        A0: (r, n) before.
        B0: (m, r) before.
        A1: (r, n) after.
        B1: (m, r) after.
        s: the scaling of the product.
    """
    A0, B0, A1, B1 = (factor.detach().cpu().double() for factor in (A0, B0, A1, B1))
    return Factored(s * torch.cat([B1 - B0, B0], dim=1), torch.cat([A1, A1 - A0]))  # (m, 2r), (2r, n)


def mean_angle(X: Tensor, Y: Tensor) -> float | None:
    """The mean principal angle between the column spaces of X (p, k) and Y (p, l), in degrees from 0 to 90.

    There are min(rank X, rank Y) principal angles; small ones are had from sines (Knyazev and Argentati 2002, as in scipy).

    Returns:
        None where one of the spaces is only the origin.
    """
    if not (X.any() and Y.any()):
        return None
    angles = subspace_angles(*(factor.detach().cpu().double().numpy() for factor in (X, Y)))
    return float(np.degrees(angles).mean())


def share_inside(matrix: Factored, X: Tensor) -> float | None:
    """‖L R P‖² / ‖L R‖², with P the projector onto the column space of X (n, k): how much of the rows lies in that space.

    Returns:
        None where the matrix or the space is zero.
    """
    X = X.detach().cpu().double()
    total = matrix.norm
    if not X.any() or total == 0:
        return None
    U, S, _ = torch.linalg.svd(X, full_matrices=False)  # (n, k), (k,)
    smallest = float(S[0]) * max(X.shape) * torch.finfo(S.dtype).eps
    basis = U[:, smallest < S]  # (n, rank)
    return min((Factored(matrix.L, matrix.R @ basis).norm / total) ** 2, 1.0)
