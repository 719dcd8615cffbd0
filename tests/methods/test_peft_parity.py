"""Against PEFT's own initialisers, where they have the published formula."""

import math
import warnings
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora import initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor, nn

from hubinit.methods import METHODS, Factors, Layer, get, parse_options
from hubinit.numerics.statistics import LayerStatistics, Statistic

M, N, RANK, ALPHA = 12, 16, 4, 8


class Net(nn.Module):
    """One linear layer under a name."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.proj = nn.Linear(N, M, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def peft_layer(net: Net, **config: Any) -> Any:
    config = {"init_lora_weights": True, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(net, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["proj"], **config))
    return model.base_model.model.proj


def factors_of(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()


def ours(name: str, statistics: LayerStatistics | None = None, **options: Any) -> Factors:
    method = METHODS[name]
    assert method.factors is not None
    weight = Net().proj.weight.detach()
    layer = Layer("proj", weight, RANK, ALPHA / RANK, torch.Generator().manual_seed(3), statistics)
    return method.factors(layer, parse_options(method, options))


def assert_same(found: Factors, A: Tensor, B: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to the signs of the r directions."""
    torch.testing.assert_close(found.B @ found.A, B @ A, atol=tolerance * float((B @ A).abs().max() + 1), rtol=0)
    torch.testing.assert_close(found.A.T @ found.A, A.T @ A, atol=tolerance * float(A.abs().max()) ** 2, rtol=0)
    torch.testing.assert_close(found.B @ found.B.T, B @ B.T, atol=tolerance * float(B.abs().max() + 1e-9) ** 2, rtol=0)


@pytest.mark.parametrize("name", ["pissa", "olora", "mica"])
def test_weight_based(name: str) -> None:
    net = Net()
    layer = peft_layer(net, init_lora_weights=name)
    assert_same(ours(name), *factors_of(layer))
    frozen = Net().proj.weight - ALPHA / RANK * ours(name).B @ ours(name).A  # PEFT's residual is our anchor
    torch.testing.assert_close(layer.get_base_layer().weight, frozen, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "reset"), [("lora", "reset_lora_parameters"), ("orthogonal", "orthogonal_init")])
def test_random_draws_are_the_same(name: str, reset: str) -> None:
    layer = peft_layer(Net())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        getattr(layer, reset)(*(("default", True) if name == "lora" else ("default",)))
    A, B = factors_of(layer)
    found = ours(name)
    torch.testing.assert_close(found.A, A)
    torch.testing.assert_close(found.B, B)


def test_dora_starts_at_the_base_with_the_norms_of_the_weight() -> None:
    layer = peft_layer(Net(), **METHODS["dora"].lora_kwargs)
    assert not factors_of(layer)[1].any()
    torch.testing.assert_close(
        layer.lora_magnitude_vector["default"].weight.detach(), Net().proj.weight.detach().norm(dim=1)
    )
    x = torch.randn(5, N)
    torch.testing.assert_close(layer(x), Net()(x))


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda(mode: str) -> None:
    """PEFT divides each example's inputs by their maximum and averages the sums over the examples."""
    examples = [torch.randn(30, N, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    net = Net()
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["proj"],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method=mode),
    )
    preprocess_corda(net, config, run_model=lambda: [net(x) for x in examples])
    layer = get_peft_model(net, config).base_model.model.proj
    scaled = [x / x.max().abs() for x in examples]
    moment = sum((x.T @ x for x in scaled), torch.zeros(N, N))
    # one "token" per example, so that the mean over tokens is PEFT's mean over examples
    statistics = LayerStatistics(len(scaled), len(scaled), {Statistic.INPUT_MOMENT: moment})
    assert_same(ours("corda", statistics, mode=mode), *factors_of(layer), tolerance=1e-3)


def test_eva() -> None:
    """PEFT's incremental PCA centres the inputs; the same batch again and again lets it converge."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, N, generator=g) * 2.0 ** -torch.arange(N) + 0.5  # (T, n) separated variances, offset
    net = Net()
    model = get_peft_model(
        net,
        LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=["proj"], init_lora_weights="eva", eva_config=EvaConfig(rho=1.0)
        ),
    )
    initialize_lora_eva_weights(
        model,
        dataloader=[x, x],
        forward_fn=lambda m, batch: m(batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    A, B = factors_of(model.base_model.model.proj)
    statistics = LayerStatistics(len(x), 1, {Statistic.INPUT_SUM: x.sum(0), Statistic.INPUT_MOMENT: x.T @ x})
    found = ours("eva", statistics, rho=1)
    assert not B.any()
    assert not found.B.any()
    cosines = (found.A * A).sum(dim=1).abs() / A.norm(dim=1)
    torch.testing.assert_close(cosines, torch.ones(RANK), atol=1e-3, rtol=0)


def test_kasa_truncates_and_starts_there() -> None:
    net = Net()
    method = get("kasa")
    assert method.peft_config is not None
    config = method.peft_config(
        rank=RANK, alpha=ALPHA, target_modules=["proj"], options=parse_options(method, {"beta": 0.5, "gamma": "0.25"})
    )
    assert (config.kasa_config.beta, config.kasa_config.gamma) == (0.5, 0.25)
    model = get_peft_model(net, config)
    U, S, Vh = torch.linalg.svd(Net().proj.weight.detach(), full_matrices=False)
    truncated = (U[:, : M - RANK] * S[: M - RANK]) @ Vh[: M - RANK]
    x = torch.randn(5, N)
    torch.testing.assert_close(model(x), x @ truncated.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rslora", [False, True])
def test_neat_is_nonlinear_in_the_weight(rslora: bool) -> None:
    net = Net()
    method = get("neat")
    assert method.peft_config is not None
    config = method.peft_config(
        rank=RANK, alpha=ALPHA, target_modules=["proj"], options=parse_options(method, {}), rslora=rslora
    )
    model = get_peft_model(net, config)
    layer = model.base_model.model.proj
    W, x = Net().proj.weight.detach(), torch.randn(5, N)
    torch.testing.assert_close(model(x), x @ W.T)  # keep: B starts at zero
    nn.init.normal_(layer.peanut_B["default"].weight)
    A, B = layer.peanut_A["default"].weight, layer.peanut_B["default"].weight  # (r, m), (m, r)
    s = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    delta = s * torch.relu(W.T @ A.T) @ B.T  # (n, m)
    torch.testing.assert_close(model(x), x @ (W.T + delta))
    assert method.a_parameter == "peanut_A"
    assert any(method.a_parameter in name for name, _ in model.named_parameters())
