"""The implicit candidate directions against the explicit ones, in float64, for every shape."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.calibration.fisher_energy import Candidates, divide, stream_input, stream_output

SIZES = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(
    m=SIZES,
    n=SIZES,
    tokens=st.integers(1, 9),
    seed=st.integers(0, 99),
    dead=st.booleans(),
    scratch=st.sampled_from([0, 1 << 20]),
)
def test_energies_equal_explicit_directions(m: int, n: int, tokens: int, seed: int, dead: bool, scratch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W, X, G, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((m, n), (tokens, n), (tokens, m), (m,))
    )
    if dead:
        W[:, 0] = 0  # an input that the layer ignores is no direction
    gram = W.T @ W  # (n, n)
    V = torch.nn.functional.normalize(gram, dim=0)  # (n, n)
    U = torch.nn.functional.normalize(W @ V, dim=0)  # (m, n)
    inputs, outputs = ((X @ V) ** 2).sum(0), ((G @ U) ** 2).sum(0)
    assert not dead or inputs[0] == outputs[0] == 0
    Y, H = X @ W.T + bias, G @ W
    c = Candidates.of(W)
    found = [
        (c.input_energies(input_moment=X.T @ X), inputs),
        (c.input_energies(output_moment=(Y - bias).T @ (Y - bias)), inputs),
        (divide(stream_input(W, X, Y, bias, scratch), c.v_squares), inputs),
        (c.output_energies(output_moment=G.T @ G), outputs),
        (c.output_energies(input_gradient_moment=H.T @ H), outputs),
        (divide(stream_output(W, H, scratch), c.uv_squares), outputs),
    ]
    for energies, expected in found:
        torch.testing.assert_close(energies, expected, rtol=1e-7, atol=1e-9 * expected.max().item())


def test_float32_is_accurate_where_the_spectrum_decays() -> None:
    """A weight with a power-law spectrum, as trained ones have: energies in float32 stay within 1e-4 of float64."""
    generator = torch.Generator().manual_seed(0)
    for m, n in ((96, 64), (64, 96)):
        U, _, Vh = torch.linalg.svd(torch.randn(m, n, generator=generator, dtype=torch.float64), full_matrices=False)
        W = (U * torch.arange(1, min(m, n) + 1) ** -1.0) @ Vh
        X = torch.randn(200, n, generator=generator, dtype=torch.float64)
        exact = Candidates.of(W).input_energies(input_moment=X.T @ X)
        found = Candidates.of(W.float()).input_energies(input_moment=(X.T @ X).float())
        assert ((found - exact) / exact).abs().max() < 1e-4
