"""Names, options and what a method promises about itself."""

import re
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from hubinit.errors import HubinitError, InitialisationError
from hubinit.methods import METHODS, Layer, get, parse_options
from hubinit.methods.lora_da import resolve
from hubinit.numerics.statistics import LayerStatistics, Statistic
from tests.methods.layers import case

EXPECTED = {
    *("lora", "dora", "lora-dash", "pissa", "milora", "mica", "olora", "orthogonal"),
    *("filet", "lora-da", "lora-ga", "lora-one", "eva", "corda", "kasa", "neat"),
}


def test_the_registry_is_complete_and_keyed_by_name() -> None:
    assert set(METHODS) == EXPECTED
    for name, method in METHODS.items():
        assert method.name == name == get(name).name
        assert re.search(r"arXiv:\d{4}\.\d{5}|https://", method.source), name
        assert (method.factors is None) == (method.peft_config is not None)


def test_every_option_is_described_and_defaults_are_valid() -> None:
    for method in METHODS.values():
        for name, field in method.options.model_fields.items():
            assert field.description and len(field.description) > 20, f"{method.name}.{name}"
        defaults = parse_options(method, {})
        # What a plan stores (all options by name, as JSON) gives the same options again.
        assert parse_options(method, defaults.model_dump(mode="json")) == defaults


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pisa", "did you mean pissa"),
        ("lora_da", "did you mean lora-da"),
        ("zzz", "known: "),
        ("peft:verra", "did you mean vera"),
        ("peft:eva", "use 'eva'"),
        ("peft:lora_ga", "use 'lora-ga'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(HubinitError, match=re.escape(message)):
        get(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora-da", {"bta": 1}, "has no option 'bta': did you mean beta"),
        ("lora-da", {"beta": -1}, "Option 'beta' of method 'lora-da' cannot be -1"),
        ("lora-da", {"preset": "offical"}, "'official' or 'paper'"),
        ("lora-da", {"lobpcg_iters": 0}, "greater than or equal to 1"),
        ("filet", {"selection": "m"}, "'M', 'R' or 'P'"),
        ("filet", {"energy_scale": 0}, "cannot be 0"),
        ("eva", {"rho": 0.5}, "greater than or equal to 1"),
        ("corda", {"mode": "ips"}, "'ipm' or 'kpm'"),
        ("lora", {"gamma": 1}, "has no option 'gamma'"),
        ("pissa", {"train_a": False}, "train with --optimizers frozen-a"),
        ("peft:vera", {"d_intial": 1}, "did you mean d_initial"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HubinitError, match=re.escape(message)):
        parse_options(get(name), options)


def test_options_from_a_command_line_are_strings() -> None:
    parsed: Any = parse_options(get("lora-da"), {"beta": "0.5", "population_size": "12", "raw_gradient": "true"})
    assert (parsed.beta, parsed.population_size, parsed.raw_gradient) == (0.5, 12, True)
    scaled: Any = parse_options(get("filet"), {"energy_scale": "2.5"})
    assert scaled.energy_scale == 2.5


def test_lora_da_presets_hold_the_values_of_their_source() -> None:
    method = get("lora-da")
    official: Any = resolve(parse_options(method, {}))  # type: ignore[arg-type]
    assert (official.beta, official.damping, official.gamma, official.population_size) == (0.03, 1e-6, 1024, 100_000)
    paper: Any = resolve(parse_options(method, {"preset": "paper"}))  # type: ignore[arg-type]
    assert (paper.beta, paper.gamma, paper.population_size, paper.project) == (1, 1, None, True)
    assert resolve(parse_options(method, {"beta": 0})).beta == 0  # type: ignore[arg-type]


S = Statistic


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("lora", {}, set()),
        ("pissa", {}, set()),
        ("filet", {}, {S.FISHER_INPUT, S.FISHER_OUTPUT}),
        ("filet", {"selection": "R"}, {S.FISHER_INPUT, S.FISHER_OUTPUT}),
        ("filet", {"scaling": "svd"}, {S.INPUT_MOMENT, S.OUTPUT_MOMENT}),
        ("filet", {"scaling": "svd", "selection": "R"}, set()),
        ("lora-da", {}, {S.GRADIENT, S.INPUT_MOMENT, S.MEAN_OUTPUT_DIAGONAL}),
        ("lora-da", {"preset": "paper"}, {S.GRADIENT, S.INPUT_MOMENT, S.MEAN_OUTPUT_MOMENT}),
        ("lora-da", {"beta": 0}, {S.GRADIENT, S.INPUT_MOMENT, S.MEAN_OUTPUT_DIAGONAL}),
        ("lora-da", {"beta": 0, "raw_gradient": True}, {S.GRADIENT}),
        ("lora-ga", {}, {S.GRADIENT}),
        ("lora-one", {}, {S.GRADIENT}),
        ("eva", {}, {S.INPUT_MOMENT, S.INPUT_SUM}),
        ("eva", {"center": False}, {S.INPUT_MOMENT}),
        ("corda", {}, {S.INPUT_MOMENT}),
    ],
)
def test_statistics_asked_for_are_enough_and_all_used(name: str, options: dict[str, Any], needed: set[S]) -> None:
    method = get(name)
    parsed = parse_options(method, options)
    assert method.statistics(parsed) == needed
    full = case(6, 7, 2).layer
    assert full.statistics is not None
    assert method.factors is not None

    def layer(without: S | None = None) -> Layer:
        assert full.statistics is not None
        sums = {key: value for key, value in full.statistics.sums.items() if key in needed and key != without}
        statistics = LayerStatistics(full.statistics.tokens, full.statistics.examples, sums)
        return Layer(full.name, full.weight, full.rank, full.scaling, torch.Generator().manual_seed(0), statistics)

    method.factors(layer(), parsed)
    for statistic in needed:
        with pytest.raises(InitialisationError, match=f"Module layer has no calibration statistic '{statistic}'"):
            method.factors(layer(without=statistic), parsed)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("lora", "vera", "loha", "lokr", "miss", "hira", "gralora")),
        ("ia3", {"feedforward_modules": []}),
        ("oft", {"oft_block_size": 4}),
        ("c3a", {"block_size": 4}),
        ("fourierft", {"n_frequency": 4}),
        ("vblora", {"vector_length": 4}),
    ],
)
def test_peft_passthrough_builds_and_starts_as_it_says(kind: str, options: dict[str, Any]) -> None:
    method = get(f"peft:{kind.upper()}")
    assert (method.name, method.factors) == (f"peft:{kind}", None)
    stored = parse_options(method, options).model_dump(mode="json")  # as a plan keeps them: None where not given
    assert method.peft_config is not None
    config = method.peft_config(
        rank=2, alpha=4, target_modules=["first", "second"], options=parse_options(method, stored)
    )
    if hasattr(config, "r") and kind != "oft":
        assert config.r == 2
    net, x = Net(), torch.randn(3, 8)
    before = net(x)
    moved = float((get_peft_model(net, config)(x) - before).detach().abs().max())
    assert (moved > 1e-4) == (method.start == "shift")


def test_peft_refusals_are_told() -> None:
    method = get("peft:adalora")
    assert method.peft_config is not None
    with pytest.raises(HubinitError, match="total_step"):
        method.peft_config(rank=2, alpha=4, target_modules=["first"], options=parse_options(method, {}))
    config = method.peft_config(
        rank=2, alpha=4, target_modules=["first"], options=parse_options(method, {"total_step": 10})
    )
    assert (config.init_r, config.target_r, config.lora_alpha) == (2, 2, 4)
    assert get("peft:prompt_tuning").start == "shift"
