"""Every single bit of the weights counts, wherever it is and however they are stored."""

import pytest
import torch
from torch import nn

from hubinit.models import fingerprint as module
from hubinit.models.fingerprint import fingerprint
from hubinit.models.layers import output_heads
from tests import cases


@pytest.mark.parametrize("name", cases.EVERYTHING)
def test_it_is_the_same_for_the_same_weights_only(name: str) -> None:
    assert fingerprint(cases.build(name)) == fingerprint(cases.build(name)) != fingerprint(cases.build(name, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_each_flipped_bit_and_each_swap_changes_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    model = nn.Module()
    model.register_buffer("weights", torch.randint(0, 255, (69,), dtype=torch.uint8)[:68].view(dtype))
    bits = model.weights.view(torch.uint8)
    before = fingerprint(model)
    for place in range(len(bits)):
        for bit in range(8):
            bits[place] ^= 1 << bit
            assert fingerprint(model) != before
            bits[place] ^= 1 << bit
    words = bits[:64].view(8, 8)
    for other in (1, 4):  # within a chunk, and to the same place of the next one
        words[[0, other]] = words[[other, 0]]
        assert fingerprint(model) != before
        words[[0, other]] = words[[other, 0]]
    assert fingerprint(model) == before


def test_a_head_that_each_run_draws_anew_and_what_is_not_stored_may_be_left_out() -> None:
    model = cases.build("bert")
    whole, body = fingerprint(model), fingerprint(model, heads=False)
    (head,) = output_heads(model)
    with torch.no_grad():
        model.get_submodule(head).weight.add_(1)
    assert fingerprint(model) != whole
    assert fingerprint(model, heads=False) == body
    model.register_buffer("scratch", torch.ones(1), persistent=False)
    assert fingerprint(model, heads=False) == body
