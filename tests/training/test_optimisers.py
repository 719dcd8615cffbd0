import pytest
import torch

import hubinit
from hubinit.errors import HubinitError
from hubinit.training.optimisers import OPTIMISERS, get
from tests import cases


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_every_optimiser_steps_what_is_trained_and_nothing_else(name: str) -> None:
    model = hubinit.initialize(cases.build("llama"), "lora", rank=2)
    optimiser = get(name).build(model, 1e-2, 0.1)
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_lora_plus_gives_b_sixteen_times_the_rate_of_a() -> None:
    model = hubinit.initialize(cases.build("llama"), "lora", rank=2)
    rates = {
        id(parameter): group["lr"]
        for group in get("lora+").build(model, 1e-3, 0.0).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(16e-3 if "lora_B" in name else 1e-3)


def test_vectors_do_not_decay() -> None:
    model = torch.nn.Linear(2, 2)
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in get("adamw").build(model, 1e-2, 0.1).param_groups
        for parameter in group["params"]
    }
    assert decays == {2: 0.1, 1: 0.0}


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(HubinitError, match="did you mean lora"):
        get("lora++")
