"""`calibrate` against brute force on every architecture, and the errors that it must give."""

import pytest
import torch

from hubinit.calibration import Calibration, Statistic, calibrate
from hubinit.errors import CalibrationError
from tests import cases
from tests.calibration import oracle

EVERY = frozenset(Statistic)
FILET = frozenset({Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT})


def error_of(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the largest entry of b."""
    return ((a.double() - b.double()).abs().max() / b.abs().max().clamp_min(1e-30)).item()


def assert_same(a: Calibration, b: Calibration, tolerance: float = 1e-9) -> None:
    assert a.layers.keys() == b.layers.keys()
    assert a.statistics == b.statistics
    assert (a.examples, a.label_tokens) == (b.examples, b.label_tokens)
    for name in a.layers:
        assert (a.layers[name].tokens, a.layers[name].examples) == (b.layers[name].tokens, b.layers[name].examples)
        for kind in a.statistics:
            error = error_of(a.layers[name].sums[kind], b.layers[name].sums[kind])
            assert error < tolerance, f"{kind} of {name}: {error:.1e}"


@pytest.mark.parametrize("name", cases.EVERYTHING)
@pytest.mark.filterwarnings("ignore:all-linear leaves out")
def test_every_statistic_equals_brute_force(name: str) -> None:
    data = cases.batches(name, examples=4, dtype=torch.float64)
    expected = oracle.statistics(name, cases.build(name), data)
    model = cases.build(name, dtype=torch.float64)
    # Its soft-capped attention takes the softmax in float32 even in a float64 model, in an order that depends on the CPU.
    tolerance = 1e-6 if name == "gemma2" else 1e-8
    # The union has moments to derive energies from; FILet alone has its own; a small budget streams them.
    for kinds, budget in ((EVERY, None), (FILET, None), (FILET, 24 * 1024)):
        found = calibrate(model, data, statistics=kinds, memory_budget=budget)
        assert found.statistics == kinds
        assert found.layers.keys() == expected.keys()
        for layer, sums in expected.items():
            assert (found.layers[layer].tokens, found.layers[layer].examples) == (sums["tokens"], sums["examples"])
            assert sums[Statistic.FISHER_OUTPUT].max() > 0 or name == "t5"  # zeros would prove nothing
            for kind in kinds:
                error = error_of(found.layers[layer].sums[kind], sums[kind])
                assert error < tolerance, f"{kind} of {layer}, budget {budget}: {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float32_and_both_forms_agree(dtype: torch.dtype) -> None:
    model, data = cases.build("qwen2", dtype=dtype), cases.batches("qwen2", examples=8)
    moments = calibrate(model, data, statistics=FILET)
    streamed = calibrate(model, data, statistics=FILET, memory_budget=12 * 1024)
    exact = calibrate(cases.build("qwen2", dtype=dtype).double(), data, statistics=FILET)
    for name, layer in moments.layers.items():
        for kind in FILET:
            assert layer.sums[kind].dtype == torch.float32
            tolerance = 1e-5 if dtype == torch.float32 else 3e-2  # bfloat16 activations are off by 2^-9 each
            assert error_of(streamed.layers[name].sums[kind], layer.sums[kind]) < tolerance
            assert error_of(layer.sums[kind], exact.layers[name].sums[kind]) < 5 * tolerance


def test_shared_inputs_are_accumulated_once() -> None:
    found = calibrate(cases.build("llama"), cases.batches("llama"), statistics={Statistic.INPUT_MOMENT})
    layers = {name.rsplit(".", 1)[-1]: layer.sums[Statistic.INPUT_MOMENT] for name, layer in found.layers.items()}
    assert layers["q_proj"] is layers["k_proj"] is layers["v_proj"]
    assert layers["gate_proj"] is layers["up_proj"]
    assert layers["o_proj"] is not layers["q_proj"]


def test_label_tokens_only() -> None:
    model = cases.build("llama", dtype=torch.float64)
    data = cases.batches("llama", examples=3)
    found = calibrate(model, data, statistics={Statistic.INPUT_SUM}, tokens="labels")
    labelled = sum(int((batch["labels"] != -100).sum()) for batch in data)
    assert {layer.tokens for layer in found.layers.values()} == {labelled}
    inputs: list[torch.Tensor] = []
    handle = model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda mod, args: inputs.append(args[0]))
    for batch in data:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    expected = sum(x[batch["labels"] != -100].sum(0) for x, batch in zip(inputs, data, strict=True))
    name = "model.layers.0.self_attn.q_proj"
    assert error_of(found.layers[name].sums[Statistic.INPUT_SUM], expected) < 1e-12


def test_model_is_left_as_it_was() -> None:
    model = cases.build("llama").train()
    model.model.layers[0].mlp.eval()
    frozen = model.model.embed_tokens.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    calibrate(model, cases.batches("llama"), statistics=EVERY)
    bad = [*cases.batches("llama"), {"input_ids": torch.tensor([[1]])}]
    with pytest.raises(CalibrationError, match="labels"):
        calibrate(model, bad, statistics=EVERY)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad == (parameter is not frozen) for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_nothing_to_calibrate() -> None:
    with pytest.raises(CalibrationError, match="nothing to calibrate"):
        calibrate(cases.build("llama"), cases.batches("llama"), statistics=())


def test_progress_and_loss_are_reported() -> None:
    data, done = cases.batches("llama"), []
    model = cases.build("llama", dtype=torch.float64)
    found = calibrate(model, data, statistics=FILET, on_batch=done.append)
    assert done == [1, 2, 3]
    losses = [oracle.loss_of("llama", model, row) for row in oracle.examples_of(data)]
    assert found.label_tokens == sum(length for _, length in losses)
    assert found.loss == pytest.approx(sum(loss.item() for loss, _ in losses) / found.label_tokens)


def test_errors_of_data() -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    with pytest.raises(CalibrationError, match="no calibration batches"):
        calibrate(model, [], statistics=FILET)
    with pytest.raises(CalibrationError, match="no `labels`"):
        calibrate(model, [{"input_ids": torch.tensor([[1, 2]])}], statistics=FILET)
    masked = [{**batch, "labels": torch.full_like(batch["labels"], -100)} for batch in data]
    with pytest.raises(CalibrationError, match=r"every label .* masked"):
        calibrate(model, masked, statistics=FILET)
    with pytest.raises(CalibrationError, match="regression"):
        calibrate(cases.build("bert"), [{**cases.batches("bert")[0], "labels": torch.rand(2)}], statistics=FILET)
    # Inputs need no labels.
    assert calibrate(model, masked, statistics={Statistic.INPUT_SUM}).examples == 6


def test_not_a_number_names_the_module_and_the_batch() -> None:
    model, data = cases.build("llama"), cases.batches("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = float("nan")
    data = [{key: value.clone() for key, value in batch.items()} for batch in data]
    for batch in data:
        batch["input_ids"][batch["input_ids"] == 5] = 6
    calibrate(model, data, statistics=FILET)
    data[2]["input_ids"][0, 1] = 5
    for kinds in (FILET, {Statistic.INPUT_MOMENT}, {Statistic.GRADIENT}, {Statistic.OUTPUT_DIAGONAL}):
        with pytest.raises(CalibrationError, match=r"output of model.embed_tokens in batch 2"):
            calibrate(model, data, statistics=kinds)
    handle = model.model.layers[1].mlp.gate_proj.register_full_backward_hook(
        lambda mod, inputs, outputs: (inputs[0] * float("inf"),)
    )
    data[2]["input_ids"][0, 1] = 6
    with pytest.raises(CalibrationError, match=r"gradients of model.layers.1.self_attn.o_proj in batch 0"):
        calibrate(model, data, statistics={Statistic.GRADIENT}, target_modules=["o_proj", "down_proj"])
    handle.remove()


def test_a_head_that_is_a_target_sees_every_token() -> None:
    data = cases.batches("llama", examples=4, dtype=torch.float64)
    for batch in data:
        batch["labels"][:, : batch["labels"].shape[1] // 2] = -100  # half of the logits are not needed otherwise
    model = cases.build("llama", dtype=torch.float64)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data)
    inputs: list[torch.Tensor] = []
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for batch in data:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    rows = [x[batch["attention_mask"].bool()] for x, batch in zip(inputs, data, strict=True)]
    moment = sum(x.T @ x for x in rows)
    for kinds in ({Statistic.INPUT_MOMENT}, {Statistic.INPUT_MOMENT, Statistic.GRADIENT}):
        head = calibrate(model, data, statistics=frozenset(kinds), target_modules=["lm_head"]).layers["lm_head"]
        assert head.tokens == tokens
        assert error_of(head.sums[Statistic.INPUT_MOMENT], moment) < 1e-10
