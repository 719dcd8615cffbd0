import pytest
import torch

from hubinit.numerics.products import ROWS, add_product_, gram, matmul, sum_of_squares


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_operands_lose_nothing(dtype: torch.dtype) -> None:
    """The sum of a bfloat16 model's products is as exact as float32 addition, over several chunks of tokens."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(ROWS + 100, 24, generator=generator).to(dtype)
    b = torch.randn(ROWS + 100, 16, generator=generator).to(dtype)
    exact = a.double().T @ b.double()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    total = torch.zeros(24, 16, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    add_product_(total, a, b)
    assert (total - exact).norm() / exact.norm() < tolerance
    assert (matmul(a.T, b) - exact).norm() / exact.norm() < tolerance
    for width in (24, 300):  # in one block, and in several
        a_wide = torch.randn(50, width, generator=generator).to(dtype)
        assert (gram(a_wide) - a_wide.double().T @ a_wide.double()).norm() / width < 50 * tolerance
    weights = torch.rand(len(a), generator=generator)
    for found, w in ((sum_of_squares(a), torch.ones(len(a))), (sum_of_squares(a, weights), weights)):
        torch.testing.assert_close(
            found.double(), ((a.double() * w[:, None].double()) ** 2).sum(0), rtol=tolerance, atol=0
        )


def test_precision_of_the_process_is_left_alone() -> None:
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    before = a @ a
    matmul(a.bfloat16(), a.bfloat16())
    assert torch.equal(a @ a, before)
