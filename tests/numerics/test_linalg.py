"""The solvers against numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hubinit.numerics import linalg

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).map(lambda s: (s[0], s[1], min(s)))
KINDS = ("random", "repeated", "deficient", "zero", "graded")


def matrix(m: int, n: int, kind: str, seed: int = 0) -> Tensor:
    """(m, n) float64 with a spectrum of the given kind."""
    g = torch.Generator().manual_seed(seed)
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=g, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(n, k, generator=g, dtype=torch.float64))[0]
    S = {
        "random": torch.rand(k, generator=g, dtype=torch.float64).sort(descending=True).values + 0.1,
        "repeated": torch.ones(k, dtype=torch.float64).index_fill_(0, torch.arange(k // 2), 2.0),
        "deficient": torch.ones(k, dtype=torch.float64) * (torch.arange(k) < (k + 1) // 2),
        "zero": torch.zeros(k, dtype=torch.float64),
        "graded": 10.0 ** -torch.arange(k, dtype=torch.float64).mul(12 / max(1, k - 1)),
    }[kind]
    return (U * S) @ V.T


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def angle(a: Tensor, b: Tensor) -> float:
    """Sine of the largest principal angle between the column spans."""
    a, b = a.double(), b.double()
    return float(torch.linalg.matrix_norm(a - b @ (b.T @ a), 2))


def check_triples(M: Tensor, triples: linalg.Triples, expected: np.ndarray, tolerance: float) -> None:
    r = len(expected)
    scale = max(float(torch.linalg.matrix_norm(M, 2)), 1e-300)
    eye = torch.eye(r, dtype=M.dtype)
    np.testing.assert_allclose(triples.S.numpy(), expected, atol=tolerance * scale)
    assert float((M @ triples.V - triples.U * triples.S).norm()) <= tolerance * scale
    assert float((M.T @ triples.U - triples.V * triples.S).norm()) <= tolerance * scale
    for vectors in (triples.U, triples.V):
        assert float((vectors.T @ vectors - eye).norm()) <= 1e3 * tolerance
    largest = triples.V.gather(0, triples.V.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())


@given(shapes, st.sampled_from(KINDS), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_top_and_minor_triples(shape: tuple[int, int, int], kind: str, seed: int) -> None:
    m, n, r = shape
    M = matrix(m, n, kind, seed)
    S = np.linalg.svd(M.numpy(), compute_uv=False)
    check_triples(M, linalg.top_svd(M, r, generator()), S[:r], 1e-9)
    check_triples(M, linalg.minor_svd(M, r), S[len(S) - r :], 1e-9)


@pytest.mark.parametrize(("m", "n"), [(60, 90), (80, 80), (150, 70)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_iterated_triples(m: int, n: int, kind: str, dtype: torch.dtype) -> None:
    M = matrix(m, n, kind)
    exact = torch.linalg.svd(M, full_matrices=False)
    triples = linalg.top_svd(M.to(dtype), 5, generator(), small=0)
    check_triples(M.to(dtype), triples, exact.S[:5].numpy(), 1e-4 if dtype == torch.float32 else 1e-9)
    if kind in ("random", "graded"):
        assert angle(triples.V, exact.Vh[:5].T) < (1e-3 if dtype == torch.float32 else 1e-8)


def test_unconverged_iterations_are_not_believed() -> None:
    M = matrix(150, 90, "random")
    triples = linalg.top_svd(M, 5, generator(), small=0, iterations=1)
    np.testing.assert_allclose(triples.S.numpy(), np.linalg.svd(M.numpy(), compute_uv=False)[:5], rtol=1e-12)
    symmetric = M.T @ M
    pairs = linalg.eigenpairs(symmetric, 5, "smallest", generator(), small=0, iterations=1)
    assert pairs.full
    np.testing.assert_allclose(pairs.values.numpy(), np.linalg.eigvalsh(symmetric.numpy())[:5], rtol=1e-10)


def test_small_singular_values_of_float32_keep_their_digits() -> None:
    """Squaring in float32 would lose everything below 3e-4 σ_1."""
    M = matrix(40, 30, "random")
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    S[-4:] = torch.tensor([4e-5, 3e-5, 2e-5, 1e-5])
    M = ((U * S) @ Vh).float()
    exact = np.linalg.svd(M.double().numpy())
    triples = linalg.minor_svd(M, 4)
    assert not triples.full
    np.testing.assert_allclose(triples.S.numpy(), exact[1][-4:], rtol=1e-6)
    assert angle(triples.V, torch.from_numpy(exact[2][-4:].T)) < 1e-6


def test_left_vectors_of_zero_singular_values_are_in_the_left_null_space() -> None:
    M = matrix(9, 6, "deficient")
    triples = linalg.minor_svd(M, 2)
    assert float((M.T @ triples.U).norm()) < 1e-12


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenpairs(which: str, kind: str) -> None:
    M = matrix(80, 80, kind)
    M = M + M.T
    exact = np.linalg.eigvalsh(M.numpy())
    expected = exact[:4] if which == "smallest" else exact[::-1][:4]
    for small in (0, 1000):
        pairs = linalg.eigenpairs(M, 4, which, generator(), small=small)  # type: ignore[arg-type]
        np.testing.assert_allclose(pairs.values.numpy(), expected, atol=1e-9)
        assert float((M @ pairs.vectors - pairs.vectors * pairs.values).norm()) < 1e-8
        assert pairs.full or small == 0


def test_repeatable_with_a_seed_and_not_tied_to_it() -> None:
    M = matrix(200, 120, "random").float()
    first, second = (linalg.top_svd(M, 6, generator(), small=0) for _ in range(2))
    assert torch.equal(first.V, second.V)
    other = linalg.top_svd(M, 6, torch.Generator().manual_seed(99), small=0)
    torch.testing.assert_close(other.V, first.V, atol=1e-3, rtol=0)


def test_power_law_spectrum_of_real_size() -> None:
    """σ_i = i^−½, as weights have: the subspace of r = 32 is found to 1e-3 rad by iterating alone."""
    k = 1000
    g = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(k, k, generator=g))[0] for _ in range(2))
    M = (U * torch.arange(1, k + 1) ** -0.5) @ V.T
    triples = linalg.top_svd(M, 32, generator())
    exact = torch.linalg.svd(M.double(), full_matrices=False)
    assert angle(triples.V, exact.Vh[:32].T) < 1e-3
    assert angle(triples.U, exact.U[:, :32]) < 1e-3
    assert 0 < triples.residual < 2e-5  # not by a full solve


def test_damping_is_raised_until_the_factorisation_succeeds() -> None:
    M = torch.diag(torch.tensor([1.0, 0.5, -1e-4], dtype=torch.float64))
    damped = linalg.damped_cholesky(M, 1e-6)
    assert damped is not None
    assert damped.raised == 3
    assert damped.damping == pytest.approx(1e-3)
    x = damped.solve(torch.ones(3, 1, dtype=torch.float64))
    torch.testing.assert_close((M + damped.damping * torch.eye(3)) @ x, torch.ones(3, 1, dtype=torch.float64))
    assert linalg.damped_cholesky(torch.full((2, 2), float("nan")), 1e-3) is None


def test_effective_rank() -> None:
    U, V = torch.linalg.qr(torch.randn(9, 4))[0], torch.linalg.qr(torch.randn(7, 4))[0]
    assert linalg.effective_rank(V.T, U) == pytest.approx(4, rel=1e-5)
    weights = torch.tensor([3.0, 1.0, 0.0, 0.0])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert linalg.effective_rank(V.T, U * weights) == pytest.approx(np.exp(entropy), rel=1e-5)
    assert linalg.effective_rank(V.T, torch.zeros(9, 4)) == 0
