"""Against the dense matrices, and against angles that are known by construction."""

import math

import pytest
import torch
from torch import Tensor

from hubinit.numerics.factored import Factored, change, mean_angle, share_inside


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_change_is_the_difference_of_the_products() -> None:
    A0, A1, B0, B1 = drawn(3, 7, seed=0), drawn(3, 7, seed=1), drawn(5, 3, seed=2), drawn(5, 3, seed=3)
    moved, dense = change(A0, B0, A1, B1, 0.5), 0.5 * (B1 @ A1 - B0 @ A0)
    G = drawn(5, 7, seed=4)
    torch.testing.assert_close(moved.L @ moved.R, dense)
    assert moved.norm == pytest.approx(float(dense.norm()))
    assert moved.dot(G) == pytest.approx(float((dense * G).sum()))


def test_a_step_far_below_the_factors_keeps_its_digits() -> None:
    A, B, step = drawn(3, 7, seed=0).float(), drawn(5, 3, seed=2).float(), torch.zeros(5, 3)
    step[0, 0] = 2.0**-20
    moved = change(A, B, A, B + step, 1.0)
    exact = ((B + step).double() - B.double()) @ A.double()  # (5, 7)
    assert 0 < moved.norm == pytest.approx(float(exact.norm()), rel=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 90.0])
def test_the_angle_of_a_rotated_plane(degrees: float) -> None:
    angle = math.radians(degrees)
    Q = torch.linalg.qr(drawn(6, 6, seed=0)).Q  # orthonormal columns
    X = Q[:, :2] @ drawn(2, 2, seed=1)  # (6, 2): any basis of the plane
    turned = torch.stack([Q[:, 0], math.cos(angle) * Q[:, 1] + math.sin(angle) * Q[:, 2]], dim=1)  # (6, 2)
    assert mean_angle(X, turned @ drawn(2, 2, seed=2)) == pytest.approx(degrees / 2, rel=1e-6, abs=1e-12)


def test_the_share_inside_is_that_of_the_dense_projection() -> None:
    L, R, X = drawn(5, 2, seed=0), drawn(2, 7, seed=1), drawn(7, 3, seed=2)
    dense, P = L @ R, X @ torch.linalg.pinv(X)  # (5, 7), (7, 7)
    expected = float((dense @ P).norm() ** 2 / dense.norm() ** 2)
    assert share_inside(Factored(L, R), X) == pytest.approx(expected)
    twice = torch.cat([X, X], dim=1)  # of rank 3: the projector is the same
    assert share_inside(Factored(L, R), twice) == pytest.approx(expected)


def test_nothing_has_no_angle_and_no_share() -> None:
    assert mean_angle(torch.zeros(4, 2), drawn(4, 2, seed=0)) is None
    assert share_inside(Factored(torch.zeros(5, 2), drawn(2, 4, seed=0)), drawn(4, 2, seed=1)) is None
