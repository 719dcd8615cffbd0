import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

import hubinit
from hubinit.adapters import InitReport
from hubinit.adapters.anchor import ADAPTER, ANCHOR, has_anchor
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.configs import lora_config
from hubinit.adapters.solving import generator_for
from hubinit.errors import HubinitError, InitialisationError
from hubinit.methods.spec import Factors, Layer, MethodOptions
from tests import cases
from tests.adapters.small import (
    RESIDUAL,
    SHIFT,
    UNEVEN,
    assert_untouched,
    deviation,
    logits,
    method,
    snapshot,
    train,
)

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.ALL)
def test_a_residual_method_starts_exactly_at_the_base_and_gives_it_back(name: str, dtype: torch.dtype) -> None:
    base, batch = cases.build(name, dtype=dtype), cases.batches(name, dtype=dtype)[0]
    before, reference = snapshot(base), logits(base, batch)
    model = hubinit.initialize(base, RESIDUAL, rank=4)
    assert has_anchor(model)
    assert torch.equal(logits(model, batch), reference)  # the difference of equal numbers is zero, in every dtype
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "lora_" in n)
    train(model)
    assert not torch.equal(logits(model, batch), reference)
    assert hubinit.detach(model) is base
    assert_untouched(base, before)
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_detach_takes_the_base_object_too_and_restores_what_was_frozen() -> None:
    base = cases.build("llama")
    base.model.embed_tokens.weight.requires_grad_(False)
    hubinit.initialize(base, RESIDUAL, rank=2)
    assert hubinit.detach(base) is base
    frozen = [name for name, parameter in base.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.embed_tokens.weight"]
    assert hubinit.detach(base) is base  # nothing attached: nothing to do
    hubinit.initialize(base, "lora", rank=2)  # and it is ready for the next run


def test_only_the_adapter_and_the_head_of_a_classifier_are_trained() -> None:
    model = hubinit.initialize(cases.build("vit"), RESIDUAL, rank=2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(f".{ADAPTER}." in name for name in trained)
    assert {name.split(".")[-2] for name in trained if "classifier" in name} == {ADAPTER}
    assert not any(f".{ANCHOR}." in name for name in trained)
    assert model.hubinit_report.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert not [name for name in snapshot(model) if "modules_to_save.anchor" in name]


def test_a_shift_or_a_zero_update_needs_no_anchor() -> None:
    batch = cases.batches("llama")[0]
    for chosen in ("lora", "mica", "orthogonal", SHIFT):
        base = cases.build("llama")
        reference = logits(base, batch)
        model = hubinit.initialize(base, chosen, rank=2)
        assert not has_anchor(model)
        assert (deviation(logits(model, batch), reference) < 1e-6) == (chosen is not SHIFT)


@pytest.mark.parametrize("rslora", [False, True])
def test_factors_are_the_methods_own_under_the_scaling_it_was_told(rslora: bool) -> None:
    seen: dict[str, Layer] = {}

    def factors(layer: Layer, options: MethodOptions) -> Factors:
        seen[layer.name] = layer
        A = torch.arange(layer.rank * layer.weight.shape[1], dtype=torch.float32).view(layer.rank, -1)
        return Factors(A, torch.ones(layer.weight.shape[0], layer.rank))

    model = hubinit.initialize(
        cases.build("gpt2"), method("own", 0.0, factors=factors, anchored=True), rank=4, alpha=6, rslora=rslora
    )
    scaling = 6 / (math.sqrt(4) if rslora else 4)
    for name, layer in adapted_layers(model).items():
        m, n = seen[name].weight.shape
        assert (layer.in_features, layer.out_features) == (n, m)  # Conv1D too
        assert seen[name].scaling == scaling == layer.scaling[ADAPTER] == layer.scaling[ANCHOR]
        assert torch.equal(layer.lora_A[ADAPTER].weight, torch.arange(4.0 * n).view(4, n))
        assert torch.equal(layer.lora_B[ANCHOR].weight, -layer.lora_B[ADAPTER].weight)


def test_factors_depend_on_the_seed_and_the_name_only() -> None:
    def factor(targets: Any, seed: int) -> torch.Tensor:
        model = hubinit.initialize(cases.build("llama"), RESIDUAL, rank=2, target_modules=targets, seed=seed)
        return adapted_layers(model)["model.layers.1.self_attn.v_proj"].lora_A[ADAPTER].weight

    alone = factor(["layers.1.self_attn.v_proj"], 0)
    assert torch.equal(alone, factor("all-linear", 0))
    assert not torch.equal(alone, factor("all-linear", 1))
    cpu = torch.device("cpu")
    assert generator_for(0, "a", cpu).initial_seed() != generator_for(0, "b", cpu).initial_seed()


def test_redistributed_ranks_keep_the_scaling_and_leave_modules_out() -> None:
    base = cases.build("llama")
    model = hubinit.initialize(base, UNEVEN, rank=2, alpha=3)
    layers = adapted_layers(model)
    everything = adapted_layers(hubinit.initialize(cases.build("llama"), "lora", rank=2))
    ranks = [layer.r[ADAPTER] for layer in layers.values()]
    assert sum(ranks) == 2 * len(everything)
    assert len(layers) < len(everything)
    assert len(set(ranks)) >= 3
    assert {layer.scaling[ADAPTER] for layer in layers.values()} == {1.5}
    reasons = model.hubinit_report.left_out
    assert set(reasons) == set(everything) - set(layers)
    assert set(reasons.values()) == {"the redistribution of ranks left it rank 0"}
    assert model.hubinit_report.summary()["modules_left_out"] == len(reasons)


@pytest.mark.filterwarnings("ignore:all-linear leaves out")
def test_the_report_lists_experts_and_gates_that_all_linear_leaves_out() -> None:
    reasons = hubinit.initialize(cases.build("qwen2_moe"), "pissa", rank=4).hubinit_report.left_out
    assert {name.removeprefix("model.layers."): reason.split()[0] for name, reason in reasons.items()} == {
        "0.mlp.experts": "mixture-of-experts",
        "0.mlp.shared_expert_gate": "gates",
        "1.mlp.experts": "mixture-of-experts",
        "1.mlp.shared_expert_gate": "gates",
    }
    named = hubinit.initialize(cases.build("qwen2_moe"), "pissa", rank=1, target_modules=["shared_expert_gate"])
    assert len(adapted_layers(named)) == 2
    assert named.hubinit_report.left_out == {}


def test_lora_da_takes_the_population_that_it_is_told() -> None:
    base, batches = cases.build("llama"), cases.batches("llama")

    def population(**kwargs: Any) -> float:
        model = hubinit.initialize(base, "lora-da", rank=2, batches=batches, target_modules=["q_proj"], **kwargs)
        found = model.hubinit_report.summary()["population_size_mean"]
        hubinit.detach(model)
        return found

    assert population() == 100_000  # the released code's
    assert population(preset="paper") == 6  # the calibration's
    assert population(population=50) == population(population=50, preset="paper") == 50
    assert population(population=50, population_size=7) == population(population_size=7) == 7


def test_rank_patterns_match_their_own_module_only() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.block = Block()
            self.xblock = Block()

    ranks = {"fc": 1, "block.fc": 2, "xblock.fc": 3}
    model = Nested()
    for order in (list(ranks), list(reversed(ranks))):
        config = lora_config(model, {name: ranks[name] for name in order}, 1.0, rslora=False)
        from peft import get_peft_model

        wrapped = get_peft_model(Nested(), config)
        assert {name: layer.r[ADAPTER] for name, layer in adapted_layers(wrapped).items()} == ranks


def test_what_a_method_freezes_stays_frozen() -> None:
    mica = hubinit.initialize(cases.build("llama"), "mica", rank=2)
    mica.set_adapter(ADAPTER)
    assert {name.split(".")[-3] for name, p in mica.named_parameters() if p.requires_grad} == {"lora_A"}


def test_the_report_says_what_was_done() -> None:
    model = hubinit.initialize(cases.build("llama", dtype=torch.bfloat16), RESIDUAL, rank=2, seed=5)
    report = model.hubinit_report
    assert InitReport.model_validate_json(report.model_dump_json()) == report
    assert (report.method, report.rank, report.alpha, report.seed, report.anchor) == ("residual", 2, 4.0, 5, "active")
    assert len(report.modules) == 14
    one = report.modules["model.layers.0.mlp.down_proj"]
    assert (one.shape, one.rank, one.scaling, one.values) == ((32, 48), 2, 2.0, {"scale": 0.3})
    layer = adapted_layers(model)["model.layers.0.mlp.down_proj"]
    weight = layer.get_base_layer().weight.double()
    update = 2.0 * (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight).detach().double()
    assert one.relative_norm == pytest.approx(float(update.norm() / weight.norm()), rel=1e-5)
    residual = weight - update
    rounding = residual.float().bfloat16().double() - residual
    assert one.merge_error == pytest.approx(float(rounding.norm() / weight.norm()), rel=1e-2)
    summary = report.summary()
    assert summary["modules"] == 14
    assert summary["scale_mean"] == pytest.approx(0.3)
    assert all(isinstance(value, float) for value in summary.values())


@pytest.mark.parametrize(
    "name", ["lora", "dora", "pissa", "milora", "mica", "olora", "orthogonal", "kasa", "neat", "peft:vera"]
)
def test_every_weight_only_method_attaches_and_leaves_the_base(name: str) -> None:
    base, batch = cases.build("llama"), cases.batches("llama")[0]
    before, reference = snapshot(base), logits(base, batch)
    model = hubinit.initialize(base, name, rank=4)
    same = float((logits(model, batch) - reference).norm() / reference.norm())
    assert (same > 1e-3) if name == "kasa" else (same < 1e-5)
    hubinit.detach(model)
    assert_untouched(base, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_peft_initialisers_that_rewrite_the_base_compute_the_same_on_an_untouched_one(dtype: torch.dtype) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import KasaConfig

    batch = cases.batches("llama")[0]
    model = hubinit.initialize(cases.build("llama", dtype=dtype), "kasa", rank=4)
    plain = cases.build("llama")
    targets = list(adapted_layers(model))
    truncated = get_peft_model(plain, LoraConfig(r=4, target_modules=targets, kasa_config=KasaConfig()))
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    expected = logits(truncated, batch)
    assert float((logits(model, batch) - expected).norm() / expected.norm()) < tolerance
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(cases.build("llama", dtype=dtype), batch))
    assert float(model._get_kasa_loss()) > 0  # PEFT still finds its layers


@pytest.mark.parametrize(("rule", "m", "n", "kept"), [
    ("peft", 32, 48, 28), ("peft", 48, 32, 28), ("peft", 32, 34, 28),
    ("released", 32, 48, 32), ("released", 48, 32, 28), ("released", 32, 34, 30),
])  # fmt: skip
def test_kasa_keeps_as_many_components_as_its_rule_says(rule: str, m: int, n: int, kept: int, tmp_path: Path) -> None:
    """Released: n − r of them, so all where m ≤ n − r. PEFT: min(m, n) − r."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(n, m, bias=False), nn.Linear(m, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    net = Net()
    U, S, Vh = np.linalg.svd(net.layer.weight.detach().double().numpy(), full_matrices=False)
    expected = torch.tensor((U[:, :kept] * S[:kept]) @ Vh[:kept]).float()
    x = torch.randn(5, n)
    model = hubinit.initialize(net, "kasa", rank=4, target_modules=["layer"], truncation=rule)
    torch.testing.assert_close(model(x), x @ expected.T, atol=1e-5, rtol=1e-4)
    hubinit.save_initialized(model, tmp_path / "start")
    train(model)
    trained = model(x)
    hubinit.export(model, tmp_path / "trained")
    torch.testing.assert_close(
        hubinit.load_initialized(hubinit.detach(model), tmp_path / "start")(x), x @ expected.T, atol=1e-5, rtol=1e-4
    )
    plain = PeftModel.from_pretrained(hubinit.detach(net), str(tmp_path / "trained"))
    torch.testing.assert_close(plain(x), trained, atol=1e-5, rtol=1e-4)


def test_merging_the_residual_is_exact_to_rounding_and_undone_bit_for_bit() -> None:
    base, batch = cases.build("gpt2"), cases.batches("gpt2")[0]
    before, reference = snapshot(base), logits(base, batch)
    model = hubinit.initialize(base, RESIDUAL, rank=4, merge_residual=True)
    assert model.hubinit_report.anchor == "merged"
    assert float((logits(model, batch) - reference).norm() / reference.norm()) < 1e-5
    assert not torch.equal(
        base.transformer.h[0].mlp.c_fc.get_base_layer().weight, before["transformer.h.0.mlp.c_fc.weight"]
    )
    with hubinit.adapters.untouched_base(model) as untouched:
        assert torch.equal(logits(untouched, batch), reference)
    with pytest.raises(HubinitError, match="residual"):
        base.save_pretrained("nowhere")
    hubinit.detach(model)
    assert_untouched(base, before)
    assert base.save_pretrained.__self__ is base


def test_wrong_use_has_one_clear_sentence_and_leaves_the_model_alone() -> None:
    base = cases.build("llama")
    before = snapshot(base)

    def fails(match: str, chosen: Any = RESIDUAL, model: nn.Module = base, **kwargs: Any) -> None:
        with pytest.raises(HubinitError, match=match):
            hubinit.initialize(model, chosen, **{"rank": 2, **kwargs})

    fails(r"rank 17 is above min\(m, n\) of model.layers.0.self_attn.k_proj \(16×32\)", rank=17)
    fails("at least 1", rank=0)
    fails("alpha positive", alpha=0)
    fails("data-aware", "filet")
    fails("unknown|Unknown", "pisa")
    fails("no option", train_c=True)
    fails("needs a float32 base", model=cases.build("llama", dtype=torch.bfloat16), merge_residual=True)
    fails("KaSA", "kasa", model=cases.build("gpt2"))
    fails("expected", method("bad", 0.0, factors=lambda layer, options: Factors(layer.weight[:1], layer.weight[:, :1])))
    nan = method("nan", math.nan)
    fails("finite", nan)
    assert_untouched(base, before)
    model = hubinit.initialize(base, RESIDUAL, rank=2)
    fails("already carries", model=model)
    fails("already carries", model=base)


def test_refused_by_peft_means_untouched() -> None:
    base = cases.build("gpt2")
    before = snapshot(base)
    with pytest.raises(InitialisationError, match="cannot attach neat"):
        hubinit.initialize(base, "neat", rank=2)
    assert_untouched(base, before)
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_the_report_of_a_zero_weight_is_finite_and_still_anchored() -> None:
    base = cases.build("llama")
    base.model.layers[0].mlp.down_proj.weight.data.zero_()
    model = hubinit.initialize(base, RESIDUAL, rank=2, target_modules=["down_proj"])
    one = model.hubinit_report.modules["model.layers.0.mlp.down_proj"]
    assert math.isfinite(one.relative_norm)
    assert one.relative_norm > 1
    assert math.isfinite(one.merge_error)
    assert has_anchor(model)
    assert InitReport.model_validate_json(model.hubinit_report.model_dump_json()) == model.hubinit_report
