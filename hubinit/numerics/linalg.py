"""Fast linear algebra for initialisation: a few extreme eigenpairs or singular triples of one matrix, verified.

Everything runs on the tensors' own device, is deterministic given a generator, and returns vectors with canonical signs
(the entry of largest magnitude is positive). Iterative solvers check their residual; where it is too large a full
factorisation takes over, and the result says so (`full`), so that a report can.

Iteration is LOBPCG: A. V. Knyazev, "Toward the optimal preconditioned eigensolver", SIAM J. Sci. Comput. 23 (2001), with
the basis of the Rayleigh–Ritz step orthonormalised by QR, as in arXiv:1704.07458.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import scipy.linalg
import torch
from torch import Tensor

from hubinit.numerics.products import gram

Operator = Callable[[Tensor], Tensor]  # (n, k) ↦ (n, k), symmetric and linear

# Up to this dimension a full diagonalisation is as fast as iterating (SmolLM2-135M's layers on one core, r = 32).
FULL_UP_TO = 768


@dataclass(frozen=True)
class Eigenpairs:
    """`k` extreme eigenpairs of a symmetric matrix, the most extreme first."""

    values: Tensor  # (k,)
    vectors: Tensor  # (n, k) orthonormal columns
    residual: float  # max_i ‖M v_i − λ_i v_i‖ / max_i |λ_i|, or for Gram matrices / √(λ_i λ_max)
    iterations: int  # 0 after a full solve
    full: bool  # True: by a full eigendecomposition


@dataclass(frozen=True)
class Triples:
    """`r` singular triples `M ≈ U diag(S) Vᵀ`, S descending."""

    U: Tensor  # (m, r)
    S: Tensor  # (r,)
    V: Tensor  # (n, r)
    residual: float  # max_i ‖Mᵀ u_i − σ_i v_i‖ / σ_1(M) (of minor triples / ‖MᵀM‖^½)
    full: bool  # True: by a full SVD

    def to(self, dtype: torch.dtype) -> "Triples":
        """The same in another dtype."""
        return replace(self, U=self.U.to(dtype), S=self.S.to(dtype), V=self.V.to(dtype))


def canonical_signs(vectors: Tensor) -> Tensor:
    """Signs (k,) in {−1, 1} that make the entry of largest magnitude of each column of `vectors: (n, k)` positive."""
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).squeeze(0)  # (k,)
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def default_tolerance(dtype: torch.dtype) -> float:
    """Relative residual that the iterative solvers reach before they stop: 1e-5 in float32, 1e-10 in float64."""
    return 1e-10 if dtype == torch.float64 else 1e-5


def lobpcg(
    operator: Operator,
    start: Tensor,
    *,
    wanted: int,
    which: Literal["smallest", "largest"],
    iterations: int,
    tolerance: float,
    precondition: Operator | None = None,
    gram: bool = False,
) -> Eigenpairs:
    """Extreme eigenpairs of a symmetric operator by LOBPCG, without forming its matrix. Returns the whole block.

    Args:
        operator: `v ↦ M v` on blocks `(n, k)`.
        start: (n, k) start block; columns beyond `wanted` guard the convergence of the wanted ones. Needs n ≥ 3k.
        wanted: how many pairs to return and to check.
        which: end of the spectrum.
        iterations: at most this many.
        tolerance: stop at `max_i ‖M v_i − λ_i v_i‖ ≤ tolerance · max_i |λ_i|` over the wanted pairs.
        precondition: symmetric positive definite, approximating the inverse of `M − λ` near the wanted end.
        gram: M is a Gram matrix; residuals are then taken relative to `√(λ_i λ_max)`, as singular vectors need.

    Returns:
        All k pairs and the residual of the wanted ones, which may exceed the tolerance: the caller decides.
    """
    n, k = start.shape
    if n < 3 * k:
        raise ValueError(f"LOBPCG needs n ≥ 3k, got n = {n}, k = {k}")
    sign = 1.0 if which == "smallest" else -1.0
    basis = torch.linalg.qr(start)[0]  # (n, k)
    image = operator(basis)  # (n, k)
    history: list[float] = []
    eps = torch.finfo(start.dtype).eps
    for step in range(iterations + 1):
        # Rayleigh–Ritz on span(basis); eigh sorts ascending.
        small = basis.T @ image * sign  # (j, j), j = k, 2k or 3k
        values, mixing = torch.linalg.eigh((small + small.T) / 2)
        values, mixing = values[:k] * sign, mixing[:, :k]  # (k,), (j, k)
        X, MX = basis @ mixing, image @ mixing  # (n, k)
        R = MX - X * values  # (n, k)
        sizes = values[:wanted].abs()
        scale = (sizes * sizes.max()).sqrt() if gram else sizes.max().expand(wanted)  # (wanted,)
        residual = float((R[:, :wanted].norm(dim=0) / torch.where(scale > 0, scale, 1.0)).max())
        stalled = residual < 1e3 * eps and len(history) >= 5 and residual > 0.7 * history[-5]  # rounding is reached
        if residual <= tolerance or stalled or step == iterations:
            break
        history.append(residual)
        W = R if precondition is None else precondition(R)  # (n, k)
        parts = [X, W]
        if basis.shape[1] > k:
            parts.append(basis[:, k:] @ mixing[k:])  # P, the part of the step outside the last X
        basis = torch.linalg.qr(torch.cat([_unit(part) for part in parts], dim=1))[0]  # (n, 2k or 3k)
        image = torch.cat([MX * _signs(basis[:, :k], X), operator(basis[:, k:])], dim=1)
    return Eigenpairs(values, X * canonical_signs(X), residual, step, full=False)


def _unit(block: Tensor) -> Tensor:
    """Columns scaled to unit length; zero columns stay (QR completes them)."""
    norms = block.norm(dim=0)
    return block / torch.where(norms > 0, norms, torch.ones_like(norms))


def _signs(q: Tensor, x: Tensor) -> Tensor:
    """QR may flip the columns of an orthonormal X: the signs (k,) with `q ≈ x · signs`."""
    return torch.where((q * x).sum(dim=0) < 0, -1.0, 1.0).to(x.dtype)


def eigenpairs(
    matrix: Tensor | Operator,
    k: int,
    which: Literal["smallest", "largest"],
    generator: torch.Generator,
    *,
    dense: Callable[[], Tensor] | None = None,
    start: Tensor | None = None,
    precondition: Operator | None = None,
    iterations: int = 60,
    tolerance: float | None = None,
    gram: bool = False,
    small: int = FULL_UP_TO,
) -> Eigenpairs:
    """The `k` smallest or largest eigenpairs of a symmetric matrix, by LOBPCG with a full solve to fall back on.

    Args:
        matrix: (n, n) symmetric, or the operator `v ↦ M v` (then `dense` and `start` are required).
        k: number of pairs.
        which: end of the spectrum.
        generator: for the random start block.
        dense: forms the matrix for the full solve.
        start: (n, p) start block, p ≥ k.
        precondition: see `lobpcg`.
        iterations: LOBPCG iterations before the full solve takes over.
        tolerance: relative residual; default `default_tolerance`.
        gram: see `lobpcg`.
        small: dimensions up to this are solved in full straight away.

    Returns:
        The pairs; `full` says whether the full solve was needed.
    """
    if isinstance(matrix, Tensor):
        explicit = matrix
        dense, operator = lambda: explicit, lambda v: explicit @ v
        block = min(k + max(8, k // 2), explicit.shape[0])
        if start is None:
            start = torch.randn(
                explicit.shape[0], block, dtype=explicit.dtype, device=explicit.device, generator=generator
            )
    else:
        operator = matrix
    if dense is None or start is None:
        raise ValueError("an operator needs `dense` and `start`")
    n, block = start.shape
    if n > small and n >= 3 * block:
        tolerance = default_tolerance(start.dtype) if tolerance is None else tolerance
        pairs = lobpcg(
            operator,
            start,
            wanted=k,
            which=which,
            iterations=iterations,
            tolerance=tolerance,
            precondition=precondition,
            gram=gram,
        )
        if pairs.residual <= tolerance:
            return replace(pairs, values=pairs.values[:k], vectors=pairs.vectors[:, :k])
    return _full_eigenpairs(dense(), k, which)


def _full_eigenpairs(matrix: Tensor, k: int, which: Literal["smallest", "largest"]) -> Eigenpairs:
    n = matrix.shape[0]
    first = 0 if which == "smallest" else n - k
    values, vectors = _factorise((matrix + matrix.T) / 2, first, first + k)
    if which == "largest":
        values, vectors = values.flip(0), vectors.flip(1)
    vectors = vectors * canonical_signs(vectors)
    scale = float(values.abs().max())
    residual = float((matrix @ vectors - vectors * values).norm(dim=0).max())
    return Eigenpairs(values, vectors, residual / scale if scale > 0 else residual, 0, full=True)


def _factorise(matrix: Tensor, first: int, stop: int) -> tuple[Tensor, Tensor]:
    """Eigenpairs number `first` to `stop − 1`, counted upwards, of a symmetric matrix (n, n): values, vectors (n, stop − first).

    On a CPU LAPACK's `syevr` computes no others, in float64: a third of the time of all of them.
    """
    n = matrix.shape[0]
    if matrix.device.type == "cpu" and stop - first <= n // 2:
        with suppress(scipy.linalg.LinAlgError):  # inverse iteration may fail in a large cluster of eigenvalues
            values, vectors = scipy.linalg.eigh(
                matrix.double().numpy(), subset_by_index=(first, stop - 1), driver="evr", check_finite=False
            )
            return torch.from_numpy(values).to(matrix.dtype), torch.from_numpy(vectors).to(matrix.dtype)
    values, vectors = torch.linalg.eigh(matrix)
    return values[first:stop], vectors[:, first:stop]


def top_svd(
    matrix: Tensor,
    r: int,
    generator: torch.Generator,
    *,
    iterations: int = 60,
    tolerance: float | None = None,
    small: int = FULL_UP_TO,
) -> Triples:
    """The `r` largest singular triples by randomised block iterations, checked, else by the Gram matrix or a full SVD.

    The iteration runs on the Gram operator of the smaller side from a random start; the triples then come from the SVD of
    the projected matrix, so that small singular values keep their accuracy.

    Args:
        matrix: (m, n).
        r: 1…min(m, n).
        generator: for the random start block.
        iterations: before the Gram matrix is diagonalised instead.
        tolerance: on the residual `max ‖Mᵀu − σv‖ / σ_1`; default `default_tolerance`.
        small: matrices whose smaller side is up to this are not iterated on.
    """
    m, n = matrix.shape
    if m < n:
        return _swap(top_svd(matrix.T, r, generator, iterations=iterations, tolerance=tolerance, small=small))
    block = r + max(8, r // 2)
    if n > small and n >= 3 * block:
        tolerance = default_tolerance(matrix.dtype) if tolerance is None else tolerance
        sketch = torch.randn(m, block, dtype=matrix.dtype, device=matrix.device, generator=generator)
        pairs = lobpcg(
            lambda v: matrix.T @ (matrix @ v),  # (n, k)
            matrix.T @ sketch,  # (n, k) a random block already turned towards the top
            wanted=r,
            which="largest",
            iterations=iterations,
            tolerance=tolerance,
            gram=True,
        )
        triples = _project(matrix, pairs.vectors, r)
        if triples.residual <= 2 * tolerance:
            return triples
    return _gram_svd(matrix, r, "largest")


def minor_svd(matrix: Tensor, r: int) -> Triples:
    """The `r` smallest of the min(m, n) singular triples, without a full SVD where that is accurate.

    The Gram matrix of the smaller side is diagonalised in float64, where squaring costs no digits of a float32 matrix; a full
    SVD decides where even so the wanted subspace cannot be told from its neighbours.

    Args:
        matrix: (m, n).
        r: 1…min(m, n).

    Returns:
        Triples in the matrix's dtype, S descending as in the last r entries of a full SVD.
    """
    m, n = matrix.shape
    return _swap(_gram_svd(matrix.T, r, "smallest")) if m < n else _gram_svd(matrix, r, "smallest")


def _gram_svd(matrix: Tensor, r: int, which: Literal["smallest", "largest"]) -> Triples:
    """Triples of `matrix: (m, n)`, m ≥ n, by diagonalising its Gram matrix in float64; by a full SVD if that cannot tell.

    Singular values below about 1e-7 σ_1 drown in the rounding of the squared matrix. They may be among the wanted ones, as
    the projected matrix gives them their digits back, but must not be on both sides of the cut.
    """
    n = matrix.shape[1]
    tall = matrix.double()  # (m, n)
    squared = gram(tall)  # (n, n)
    first = n - r if which == "largest" else 0
    # One more pair, on the other side of the cut, tells whether the two sides can be told apart.
    low, high = max(first - (which == "largest"), 0), min(first + r + (which == "smallest"), n)
    values, vectors = _factorise(squared, low, high)  # ascending, (n, high − low)
    scale = float(values[-1]) if which == "largest" else float(squared.norm())  # λ_1, or less than √n above it
    floor = 100 * torch.finfo(torch.float64).eps * n * scale
    edge = values[:2] if which == "largest" else values[-2:]  # the pairs on both sides of the cut
    if high - low > r and float(edge.max()) <= floor:
        return _full_svd(matrix, r, which)
    triples = _project(tall, vectors[:, first - low : first - low + r], r, largest=max(scale, 0.0) ** 0.5)
    if triples.residual > 1e-7:  # left vectors of zero singular values are not determined by the right ones
        return _full_svd(matrix, r, which)
    return triples.to(matrix.dtype)


def _project(matrix: Tensor, vectors: Tensor, r: int, largest: float | None = None) -> Triples:
    """The top r singular triples of `matrix: (m, n)` restricted to the span of `vectors: (n, k)` (orthonormal columns)."""
    U, S, mixing = torch.linalg.svd(matrix @ vectors, full_matrices=False)  # (m, k), (k,), (k, k)
    U, S, V = U[:, :r], S[:r], vectors @ mixing[:r].T  # (m, r), (r,), (n, r)
    residual = float((matrix.T @ U - V * S).norm(dim=0).max())
    scale, signs = float(S[0]) if largest is None else largest, canonical_signs(V)
    return Triples(U * signs, S, V * signs, residual / scale if scale > 0 else residual, full=False)


def _full_svd(matrix: Tensor, r: int, which: Literal["smallest", "largest"]) -> Triples:
    """By a full SVD in float64, because it is asked for where float32 lacks digits."""
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    chosen = slice(0, r) if which == "largest" else slice(S.shape[0] - r, S.shape[0])
    U, V, kept = U[:, chosen], Vh[chosen].T, S[chosen]
    signs = canonical_signs(V)
    return Triples(U * signs, kept, V * signs, residual=0.0, full=True).to(matrix.dtype)


def _swap(triples: Triples) -> Triples:
    """Triples of `Mᵀ` as triples of `M`, signs again by the right vectors."""
    signs = canonical_signs(triples.U)
    return replace(triples, U=triples.V * signs, V=triples.U * signs)


@dataclass(frozen=True)
class Damped:
    """Cholesky factor of `M + damping·I`."""

    L: Tensor  # (n, n) lower triangular
    damping: float
    raised: int  # how often the damping had to be multiplied by 10

    def solve(self, right: Tensor) -> Tensor:
        """`(M + damping·I)⁻¹ right` for `right: (n, k)`."""
        return torch.cholesky_solve(right, self.L)  # (n, k)


def damped_cholesky(matrix: Tensor, damping: float, *, attempts: int = 12) -> Damped | None:
    """Factorise `M + damping·I`; on failure the damping is raised tenfold until it succeeds.

    Args:
        matrix: (n, n) symmetric positive semidefinite up to rounding.
        damping: absolute, ≥ 0. Zero is raised from eps · mean diagonal.
        attempts: how many raises are tried.

    Returns:
        The factor, or None if every attempt failed (the matrix is not positive semidefinite by far, or not finite).
    """
    diagonal = matrix.diagonal()
    floor = torch.finfo(matrix.dtype).eps * max(float(diagonal.mean()), torch.finfo(matrix.dtype).tiny)
    value = damping
    for raised in range(attempts + 1):
        damped = matrix.clone()
        damped.diagonal().add_(value)
        L, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0 and torch.isfinite(L.diagonal()).all():
            return Damped(L, value, raised)
        value = max(10 * value, floor)
    return None


def effective_rank(A: Tensor, B: Tensor) -> float:
    """exp(entropy of the normalised singular values) of `B A`, without forming it; 0 when B A = 0 up to rounding.

    O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007.

    Args:
        A: (r, n).
        B: (m, r).
    """
    if not (A.any() and B.any()):
        return 0.0
    RA = torch.linalg.qr(A.T.double())[1]  # (r, r), A = RAᵀ QAᵀ
    RB = torch.linalg.qr(B.double())[1]  # (r, r)
    S = torch.linalg.svdvals(RB @ RA.T)  # (r,)
    if float(S[0]) <= 10 * torch.finfo(A.dtype).eps * float(A.double().norm() * B.double().norm()):
        return 0.0  # the subspaces cancel, as in the orthogonal initialisation
    p = S / S.sum()
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))
