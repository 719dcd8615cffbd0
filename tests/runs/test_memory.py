"""What a run holds, counted without weights, against formulas made by hand and against runs that were measured."""

import pytest

from hubinit import adapters
from hubinit.adapters.base import adapted_layers
from hubinit.methods import METHODS
from hubinit.models import names
from hubinit.models.shapes import empty_model
from hubinit.runs.memory import NF4, count, memory_of
from hubinit.runs.plan import calibration_spec, method_spec
from hubinit.specs import FULL, NO_ADAPTER, DataSpec, MethodSpec, ModelSpec, Protocol, Recipe, RunSpec
from tests import cases

GIB = 2**30
H, F, KV, L, V, R = 576, 1536, 192, 30, 49152, 16  # SmolLM2-135M
PARAMETERS = V * H + L * (2 * H * H + 2 * H * KV + 3 * H * F + 2 * H) + H
ADAPTER = L * R * (2 * (H + H) + 2 * (H + KV) + 3 * (H + F))


def spec(method="lora", dtype="float32", model=None, rank=R, quantize=None, optimiser="adamw", **recipe):
    own = method_spec(method, Protocol()) if method not in NO_ADAPTER else MethodSpec(name=method)
    rank = 0 if method in NO_ADAPTER else rank
    chosen = model or names.resolve("smollm2-135m")
    return RunSpec(
        model=chosen.model_copy(update={"dtype": dtype, "quantize": quantize}),
        method=own,
        rank=rank,
        alpha=2 * rank,
        data=DataSpec(tasks=("arc-easy",)),
        calibration=calibration_spec(own, Protocol()) if rank else None,
        recipe=Recipe(**{"micro_batch_size": 2, "max_length": 64} | recipe, optimiser=optimiser),
    )


def test_the_parts_are_those_of_the_formula():
    held = count(spec())
    tokens = 2 * 64
    # Of a layer: inputs and outputs of both norms, queries, keys, values, output of attention,
    # gate, its SiLU, up, their product; and A x of the seven adapters. All float32.
    kept = 4 * tokens * L * (4 * H + H + 2 * KV + H + 4 * F + 7 * R)
    assert held.trainable == ADAPTER
    assert held.weights == 4 * (PARAMETERS + ADAPTER)
    assert (held.gradients, held.optimiser) == (4 * ADAPTER, 8 * ADAPTER)
    assert held.activations == pytest.approx(kept, rel=0.02)
    assert held.logits == tokens * V * 6 * 4
    assert held.calibration == 0


def test_what_changes_a_part():
    whole = count(spec())
    assert count(spec(micro_batch_size=4)).activations == pytest.approx(2 * whole.activations, rel=0.01)
    saving = count(spec(gradient_checkpointing=True))
    assert saving.activations == 4 * 2 * 64 * L * H + whole.activations // L
    frozen = count(spec(optimiser="frozen-a"))
    assert frozen.trainable == L * R * (3 * H + 2 * KV + 2 * F)
    full = count(spec(FULL))
    assert full.trainable == PARAMETERS
    assert full.weights + full.gradients + full.optimiser == 16 * PARAMETERS
    layers = PARAMETERS - V * H - (2 * L + 1) * H
    four = count(spec("lora", "bfloat16", quantize="nf4"))
    assert four.weights == pytest.approx(2 * (PARAMETERS - layers) + NF4 * layers + 4 * ADAPTER, abs=2)
    assert count(spec("pissa")).weights == whole.weights + 4 * ADAPTER, "an anchor is a second adapter"
    assert count(spec("lora-ga")).calibration > 4 * layers, "the gradients of all layers, float32"


@pytest.mark.parametrize(
    ("method", "batch", "peak"),
    [("lora", 16, 1.88), ("lora", 32, 2.86), ("dora", 32, 4.01), ("pissa", 32, 2.86), ("filet", 32, 2.85)],
)
def test_measured_peaks_are_met_within_a_tenth(method, batch, peak):
    """Peaks, in GiB, of real trainings of SmolLM2-135M on a CPU in bfloat16, every text cut to 32 tokens, a loss on all."""
    held = memory_of(spec(method, "bfloat16", micro_batch_size=batch, batch_size=batch, max_length=32))
    training = held.total - max(
        0, held.calibration - (held.gradients + held.optimiser + held.activations + held.logits)
    )
    assert training / GIB == pytest.approx(peak, rel=0.1)


def test_the_trained_parameters_are_those_of_the_adapters(tmp_path):
    whole = cases.build("llama")
    whole.save_pretrained(tmp_path)
    model = ModelSpec(id=str(tmp_path))
    for name in (method.name for method in METHODS.values() if not method.statistics(method.options())):
        attached = adapters.initialize(whole, name, rank=4)
        expected = sum(parameter.numel() for parameter in attached.parameters() if parameter.requires_grad)
        adapters.detach(whole)
        held = memory_of(spec(name, model=model, rank=4))
        assert held is not None, name
        assert held.trainable - expected in (0, directions(name)), name
    assert not adapted_layers(empty_model(model.model_copy(update={"dtype": "float32"})))


def directions(name):
    """LoRA-Dash's coefficients, which its run adds after the start: eight for each of the 14 layers."""
    return 8 * 14 if name == "lora-dash" else 0


def test_a_model_that_cannot_be_had_has_no_size(hub):
    assert memory_of(spec(model=ModelSpec(id="tiny/nowhere", revision="a" * 40))) is None
