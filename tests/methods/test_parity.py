"""Every method against an independent float64 computation: one row per method and variant."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hubinit.methods import METHODS, parse_options
from tests.methods.layers import SCALING, Case, case

Array = NDArray[np.float64]
Oracle = Callable[[Case], tuple[Array, Array]]


@dataclass(frozen=True)
class Row:
    method: str
    oracle: Oracle
    options: dict[str, Any] = field(default_factory=dict)
    even_rank: bool = False
    twice_the_rank: bool = False
    orthogonal_tokens: bool = False

    def __str__(self) -> str:
        return "-".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def lora(c: Case) -> tuple[Array, Array]:
    m, n = c.W.shape
    A = torch.rand(c.layer.rank, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return ((2 * A - 1) / n**0.5).numpy(), np.zeros((m, c.layer.rank))


def lora_dash(c: Case) -> tuple[Array, Array]:
    """The released layer's reset: A "the same way as the default for nn.Linear", B zero; it warms up as plain LoRA."""
    m, n = c.W.shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        A = torch.nn.Linear(n, c.layer.rank, bias=False, dtype=torch.float64).weight.detach()
    return A.numpy(), np.zeros((m, c.layer.rank))


def weight_component(first: bool) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        U, S, Vh = np.linalg.svd(c.W.numpy(), full_matrices=False)
        kept = slice(0, c.layer.rank) if first else slice(len(S) - c.layer.rank, len(S))
        root = np.sqrt(S[kept] / SCALING)
        return root[:, None] * Vh[kept], U[:, kept] * root

    return oracle


def mica(c: Case) -> tuple[Array, Array]:
    U = np.linalg.svd(c.W.numpy(), full_matrices=False)[0]
    return np.zeros((c.layer.rank, c.W.shape[1])), U[:, -c.layer.rank :]


def olora(c: Case) -> tuple[Array, Array]:
    Q, R = np.linalg.qr(c.W.numpy())
    return R[: c.layer.rank], Q[:, : c.layer.rank]


def orthogonal(c: Case) -> tuple[Array, Array]:
    (m, n), r = c.W.shape, c.layer.rank
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(r, r, generator=g, dtype=torch.float64))[0]
    A = (torch.randn(n, r // 2, generator=g, dtype=torch.float64) @ Q[0::2]).T / 10
    B = torch.randn(r // 2, m, generator=g, dtype=torch.float64).T @ Q[1::2] / 10
    return A.numpy(), B.numpy()


def kfac(c: Case, scaled: "Reading | None" = None) -> Array:
    """The whole Fisher (mn, mn) of the row-major vec(W): S_Y ⊗ S_X."""
    S_X, S_Y = (scaled or per_token)(c)
    return np.kron(S_Y, S_X)


# Readings of Algorithm 1's `S_X += X Xᵀ / dim(X)` and `S_X ← S_X / T`: what one product and the whole sum are divided by.
Reading = Callable[[Case], tuple[Array, Array]]


def accumulate(rows: Array, each: float, total: float) -> Array:
    """Algorithm 1's loop over samples of one token."""
    moment = np.zeros((rows.shape[1], rows.shape[1]))
    for row in rows:
        moment += np.outer(row, row) / each
    return moment / total


def per_token(c: Case) -> tuple[Array, Array]:
    """`dim` counts one vector, T the tokens."""
    return accumulate(c.X.numpy(), 1, len(c.X)), accumulate(c.Y.numpy(), 1, len(c.Y))


def per_feature(c: Case) -> tuple[Array, Array]:
    """`dim(X)` and `dim(∇_Y L)` count features, T the tokens."""
    m, n = c.W.shape
    return accumulate(c.X.numpy(), n, len(c.X)), accumulate(c.Y.numpy(), m, len(c.Y))


def per_example(c: Case) -> tuple[Array, Array]:
    """`dim` counts one vector, T the examples."""
    return accumulate(c.X.numpy(), 1, c.examples), accumulate(c.Y.numpy(), 1, c.examples)


def of_loss(scale: Callable[[Case], float]) -> Reading:
    """Per token, of the loss multiplied by a number: its gradients are."""

    def reading(c: Case) -> tuple[Array, Array]:
        return accumulate(c.X.numpy(), 1, len(c.X)), accumulate(scale(c) * c.Y.numpy(), 1, len(c.Y))

    return reading


def unit_mean(c: Case) -> float:
    """The number that makes the mean of the candidates' per-token energies 1. It is a sum over pairs of tokens."""
    U, V = c.candidates()
    seen, felt = (c.X @ V) ** 2, (c.Y @ U) ** 2  # (T, n)
    total = sum(float((x * y).sum()) for x in seen for y in felt) / len(c.X) ** 2
    return float((V.shape[1] / total) ** 0.5)


def filet(pick: Callable[[Array, int], Array], reading: Reading = per_token) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        U, V = (t.numpy() for t in c.candidates())
        F = kfac(c, reading)
        Z = [np.outer(U[:, i], V[:, i]).ravel() for i in range(V.shape[1])]
        energies = np.array([z @ F @ z for z in Z])
        chosen = pick(energies, c.layer.rank)
        root = np.sqrt(energies[chosen])
        return root[:, None] * V[:, chosen].T, U[:, chosen] * root

    return oracle


def filet_svd(pick: Callable[[Array, int], Array]) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        U, S, Vh = np.linalg.svd(c.W.numpy(), full_matrices=False)
        F = kfac(c)
        Z = [np.outer(U[:, i], Vh[i]).ravel() for i in range(len(S))]
        chosen = pick(np.array([z @ F @ z for z in Z]), c.layer.rank)
        root = np.sqrt(S[chosen])
        return root[:, None] * Vh[chosen], U[:, chosen] * root

    return oracle


def smallest(energies: Array, r: int) -> Array:
    return np.argsort(energies)[:r]


def largest(energies: Array, r: int) -> Array:
    return np.argsort(energies)[::-1][:r]


def drawn(energies: Array, r: int) -> Array:
    return torch.randperm(len(energies), generator=torch.Generator().manual_seed(0))[:r].numpy()


def lora_da_official(beta: float = 0.03, population: int = 100_000, raw: bool = False) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        m, n = c.W.shape
        G = c.G.numpy()
        d = (c.Y_mean**2).mean(0).numpy() + 1e-6
        J = np.kron(np.diag(d), c.S_X.numpy() + 1e-6 * np.eye(n))  # (mn, mn)
        inverse = np.linalg.inv(J).reshape(m, n, m, n)
        blocks = np.stack([inverse[i, :, i] for i in range(m)])  # (m, n, n)
        delta = -G if raw else -np.einsum("ijk,ik->ij", blocks, G)
        top = np.linalg.norm(delta, 2)
        delta = delta / top
        omega = beta * blocks.sum(0) / population / top**2 - delta.T @ delta
        A = np.linalg.eigh(omega)[1][:, : c.layer.rank].T
        return A / 1024**0.5, delta @ A.T / 1024**0.5

    return oracle


def lora_da_paper(population: int | None = None) -> Oracle:
    """The text, with every scale taken from autograd: G and the Fisher's trace come from the gradients of the examples.

    K-FAC gives the Fisher's shape only, `(YᵀY + ε) ⊗ (XᵀX + ε)` with ε relative to each factor. Where the inputs of an example
    are orthogonal and of one length, its trace without ε is the trace of `mean vec(G_i) vec(G_i)ᵀ`.
    """

    def oracle(c: Case) -> tuple[Array, Array]:
        m, n = c.W.shape
        gradients = np.stack([g.numpy() for g in c.example_gradients()])  # (E, m, n)
        G, trace = gradients.mean(axis=0), (gradients**2).sum() / c.examples
        X, Y = (t.numpy().T @ t.numpy() for t in (c.X, c.Y_mean))  # (n, n), (m, m) up to a factor
        X, Y = X / np.trace(X), Y / np.trace(Y)
        X, Y = (t + 1e-3 * np.eye(len(t)) / len(t) for t in (X, Y))
        inverse = np.linalg.inv(trace * np.kron(Y, X)).reshape(m, n, m, n)
        blocks = np.stack([inverse[i, :, i] for i in range(m)])  # (m, n, n)
        delta = -np.einsum("ijk,ik->ij", blocks, G)
        omega = blocks.sum(0) / (population or c.examples) - delta.T @ delta
        A = np.linalg.eigh(omega)[1][:, : c.layer.rank].T
        return A, delta @ A.T / SCALING

    return oracle


def lora_ga(c: Case) -> tuple[Array, Array]:
    U, _, Vh = np.linalg.svd(c.G.numpy(), full_matrices=False)
    # A and B take different singular pairs, so the sign of BA hangs on the canonical signs.
    signs = np.sign(Vh[np.arange(len(Vh)), np.abs(Vh).argmax(axis=1)])
    U, Vh = U * signs, Vh * signs[:, None]
    scale, r = c.W.shape[0] ** 0.25 / 4, c.layer.rank
    return scale * Vh[:r], scale * U[:, r : 2 * r]


def lora_one(c: Case) -> tuple[Array, Array]:
    U, S, Vh = np.linalg.svd(-c.G.numpy(), full_matrices=False)
    root = np.sqrt(S / S[0] / 128)[: c.layer.rank]
    return root[:, None] * Vh[: c.layer.rank], U[:, : c.layer.rank] * root


def eva(center: bool = True, whiten: bool = False) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        X = c.X.numpy()
        _, S, Vh = np.linalg.svd(X - X.mean(0) if center else X, full_matrices=False)
        A = Vh[: c.layer.rank]
        return (A / np.sqrt(S[: c.layer.rank])[:, None] if whiten else A), np.zeros((c.W.shape[0], c.layer.rank))

    return oracle


def corda(first: bool) -> Oracle:
    def oracle(c: Case) -> tuple[Array, Array]:
        C = c.S_X.numpy()
        C = C + 0.01 * np.mean(np.diag(C)) * np.eye(len(C))
        U, S, Vh = np.linalg.svd(c.W.numpy() @ C, full_matrices=False)
        kept = slice(0, c.layer.rank) if first else slice(len(S) - c.layer.rank, len(S))
        root = np.sqrt(S[kept] / SCALING)
        return root[:, None] * Vh[kept] @ np.linalg.inv(C), U[:, kept] * root

    return oracle


ROWS = [
    Row("lora", lora),
    Row("dora", lora),
    Row("lora-dash", lora_dash),
    Row("pissa", weight_component(first=True)),
    Row("milora", weight_component(first=False)),
    Row("mica", mica),
    Row("olora", olora),
    Row("orthogonal", orthogonal, even_rank=True),
    Row("filet", filet(smallest)),
    Row("filet", filet(drawn), {"selection": "R"}),
    Row("filet", filet(largest), {"selection": "P"}),
    Row("filet", filet_svd(smallest), {"scaling": "svd"}),
    Row("filet", filet_svd(drawn), {"selection": "R", "scaling": "svd"}),
    Row("filet", filet_svd(largest), {"selection": "P", "scaling": "svd"}),
    Row("filet", filet(smallest, per_feature), {"energy_scale": "feature"}),
    Row("filet", filet(smallest, per_example), {"energy_scale": "example"}),
    Row("filet", filet(smallest, of_loss(unit_mean)), {"energy_scale": "relative"}),
    Row("filet", filet(smallest, of_loss(lambda c: 7**0.5)), {"energy_scale": 7}),
    Row("lora-da", lora_da_official()),
    Row("lora-da", lora_da_official(beta=2.0, population=3), {"beta": 2.0, "population_size": 3}),
    Row("lora-da", lora_da_official(raw=True), {"raw_gradient": True}),
    Row("lora-da", lora_da_official(beta=0.0), {"beta": 0}),
    Row("lora-da", lora_da_paper(), {"preset": "paper"}, orthogonal_tokens=True),
    Row("lora-da", lora_da_paper(900), {"preset": "paper", "population_size": 900}, orthogonal_tokens=True),
    Row("lora-ga", lora_ga, twice_the_rank=True),
    Row("lora-one", lora_one),
    Row("eva", eva()),
    Row("eva", eva(center=False), {"center": False}),
    Row("eva", eva(whiten=True), {"whiten": True}),
    Row("corda", corda(first=True)),
    Row("corda", corda(first=False), {"mode": "kpm"}),
]


def test_every_method_has_a_row() -> None:
    """Methods with an adapter of their own (kasa, neat) are held to their formula in test_adapters.py."""
    assert {row.method for row in ROWS} == {name for name, method in METHODS.items() if method.factors}


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize(("m", "n"), [(6, 10), (8, 8), (11, 7)], ids=["wide", "square", "tall"])
@pytest.mark.parametrize("rank", [1, 3, None], ids=["r1", "r3", "full"])
def test_parity(row: Row, m: int, n: int, rank: int | None) -> None:
    rank = rank or min(m, n)
    if row.even_rank:
        rank = max(2, rank // 2 * 2)
    if row.twice_the_rank:
        rank = min(rank, min(m, n) // 2)
    c = case(m, n, rank, tokens=24 if row.orthogonal_tokens else 60, orthogonal=row.orthogonal_tokens)
    method = METHODS[row.method]
    assert method.factors is not None
    factors = method.factors(c.layer, parse_options(method, row.options))
    A, B = factors.A.numpy(), factors.B.numpy()
    expected_A, expected_B = row.oracle(c)
    assert A.shape == (rank, n)
    assert B.shape == (m, rank)
    # A and B up to the signs of their r directions.
    close(B @ A, expected_B @ expected_A)
    close(A.T @ A, expected_A.T @ expected_A)
    close(B @ B.T, expected_B @ expected_B.T)
    assert all(np.isfinite(value) for value in factors.report.values())


def close(actual: Array, expected: Array) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=1e-7 * scale + 1e-14, rtol=0)


@pytest.mark.parametrize("row", [row for row in ROWS if METHODS[row.method].anchored or row.method == "eva"], ids=str)
def test_float32_agrees_with_float64(row: Row) -> None:
    method = METHODS[row.method]
    assert method.factors is not None
    options = parse_options(method, row.options)
    exact = method.factors(case(14, 12, 4).layer, options)
    single = method.factors(case(14, 12, 4, dtype=torch.float32).layer, options)
    assert single.A.dtype == single.B.dtype == torch.float32
    for a, b in ((single.B @ single.A, exact.B @ exact.A), (single.A.T @ single.A, exact.A.T @ exact.A)):
        assert float((a - b).norm()) <= 2e-4 * float(b.norm())
