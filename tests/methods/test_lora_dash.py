"""LoRA-Dash's directions against the formula of its released code, on dense products in float64."""

import pytest
import torch

from hubinit.methods.lora_dash import LoraDashOptions, choose_directions


@pytest.mark.parametrize(("m", "n"), [(24, 18), (18, 24), (20, 20)])
def test_the_directions_are_those_of_the_released_code(m: int, n: int) -> None:
    generator = torch.Generator().manual_seed(m)
    W, A, B = (torch.randn(*shape, generator=generator) for shape in ((m, n), (4, n), (m, 4)))
    U, Vt = choose_directions(W, A, B, 1.5, LoraDashOptions())
    # torch.diag(U^T dW V) and topk(|b| / |a|), as calculate_change_rate has it
    full_U, sigma, full_Vt = torch.linalg.svd(W.double(), full_matrices=False)
    delta = torch.diag(full_U.T @ (1.5 * B.double() @ A.double()) @ full_Vt.T)
    top = torch.topk(delta.abs() / sigma.abs(), 8).indices
    assert U.shape == (m, 8)
    for own_u, own_v, k in zip(U.T, Vt, top, strict=True):  # the sign of a pair is free, its product is not
        torch.testing.assert_close(
            torch.outer(own_u, own_v).double(), torch.outer(full_U[:, k], full_Vt[k]), rtol=1e-3, atol=1e-4
        )


def test_a_direction_that_the_weight_does_not_have_is_not_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(12, 5, generator=generator) @ torch.randn(5, 12, generator=generator)  # rank 5
    A, B = torch.randn(2, 12, generator=generator), torch.randn(12, 2, generator=generator)
    U, Vt = choose_directions(W, A, B, 1.0, LoraDashOptions(directions=5))
    torch.testing.assert_close(U @ U.T @ W @ Vt.T @ Vt, W, rtol=1e-3, atol=1e-3)


def test_a_small_weight_has_no_more_directions_than_its_shorter_side() -> None:
    U, Vt = choose_directions(torch.eye(3), torch.ones(1, 3), torch.ones(3, 1), 1.0, LoraDashOptions())
    assert (U.shape, Vt.shape) == ((3, 3), (3, 3))
