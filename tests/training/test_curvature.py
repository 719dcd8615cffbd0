"""Curvature against dense matrices in float64, from a loss that is written out here by itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacfwd

import hubinit
from hubinit.data.encode import Example, encode
from hubinit.errors import HubinitError
from hubinit.specs import Recipe
from hubinit.training import curvature
from hubinit.training.curvature import prepare_problem, suggest_learning_rate
from tests.texts import language_model, tokenizer

EXAMPLES = [Example(f"What comes after {index}?", " bird" * (1 + index)) for index in range(3)]
RECIPE = Recipe(batch_size=4, micro_batch_size=2, max_length=64)
TARGETS = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]


def adapted(method: str = "lora", moved: float = 0.0) -> Any:
    """A float64 model with an adapter of rank 1, moved off its start."""
    base = language_model().double()
    model = hubinit.initialize(base, method, rank=1, target_modules=TARGETS)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += moved * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def logits_of(model: Any) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A function from all trained numbers to the label tokens' logits (N, V), its argument (n,), and the labels (N,).

    Text by text, without padding or batches.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    values = [model.get_parameter(name).detach() for name in names]
    texts = [encode(example, tokenizer(), 64) for example in EXAMPLES]

    def logits(vector: Tensor) -> Tensor:
        parts = vector.split([value.numel() for value in values])
        own = {name: part.view_as(value) for name, part, value in zip(names, parts, values, strict=True)}
        rows = []
        for text in texts:
            first = text["labels"].count(-100)
            out = functional_call(model, own, (), {"input_ids": torch.tensor([text["input_ids"]])})
            rows.append(out.logits[0, first - 1 : -1])
        return torch.cat(rows)

    labels = torch.tensor([label for text in texts for label in text["labels"] if label != -100])
    return logits, torch.cat([value.flatten() for value in values]), labels


def dense(model: Any) -> tuple[Tensor, Tensor]:
    """The gradient (n,) and Gauss–Newton matrix (n, n) of the mean negative log-likelihood, through forward differentiation."""
    model.set_attn_implementation("eager")
    logits, at, labels = logits_of(model)
    J = jacfwd(logits)(at).detach()  # (N, V, n)
    p = logits(at).detach().softmax(-1)  # (N, V)
    model.set_attn_implementation("sdpa")
    out = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # (N, V, V)
    miss = p - torch.nn.functional.one_hot(labels, p.shape[1])  # (N, V)
    return torch.einsum("nv,nvi->i", miss, J) / len(labels), torch.einsum("nvi,nvw,nwj->ij", J, out, J) / len(labels)


def assert_near(own: Tensor, expected: Tensor) -> None:
    """Equal to what Llama leaves of float64: its norms compute in float32."""
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("method", "moved"), [("lora", 0.0), ("dora", 0.1)])
def test_gradient_product_and_eigenvalue_are_those_of_the_dense_matrices(method: str, moved: float) -> None:
    model = adapted(method, moved)
    g, G = dense(model)
    v = torch.randn(len(g), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with prepare_problem(model, tokenizer(), EXAMPLES, RECIPE) as problem:
        assert_near(curvature.gradient(problem), g)
        assert_near(curvature.ggn_product(problem, v), G @ v)
        value, products = curvature.largest_eigenvalue(
            lambda v: curvature.ggn_product(problem, v), len(g), tolerance=1e-4
        )
    assert value == pytest.approx(float(torch.linalg.eigvalsh(G)[-1]), rel=1e-3)
    assert products < len(g) / 2


@pytest.mark.parametrize("micro", [1, 4])
def test_a_suggestion_is_the_minimum_of_the_quadratic_along_the_sign_of_the_gradient(micro: int) -> None:
    model = adapted(moved=0.1)
    g, G = dense(model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    recipe = RECIPE.model_copy(update={"micro_batch_size": micro})
    found = suggest_learning_rate(model, tokenizer(), EXAMPLES, recipe)
    assert found.rate == pytest.approx(float(g.abs().sum() / (g.sign() @ G @ g.sign())), rel=1e-3)
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in model.named_parameters())


def test_what_an_optimiser_freezes_takes_no_part_and_is_trained_again_afterwards() -> None:
    model = adapted(moved=0.1)
    g, G = dense(model)
    of_b = torch.cat(
        [torch.full((p.numel(),), float(".lora_B." in n)) for n, p in model.named_parameters() if p.requires_grad]
    )
    d = g.sign() * of_b  # (n,)
    recipe = RECIPE.model_copy(update={"optimiser": "frozen-a"})
    found = suggest_learning_rate(model, tokenizer(), EXAMPLES, recipe, with_eigenvalue=True)
    assert found.rate == pytest.approx(float(g @ d / (d @ G @ d)), rel=1e-3)
    own = G[of_b.bool()][:, of_b.bool()]
    assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(own)[-1]), rel=curvature.TOLERANCE)
    assert sum(p.requires_grad for p in model.parameters()) == 2 * len(TARGETS)


def test_an_anchored_start_has_the_curvature_of_plain_factors_on_the_residual_base() -> None:
    anchored, merged = adapted("pissa"), language_model().double()
    found = suggest_learning_rate(anchored, tokenizer(), EXAMPLES, RECIPE, with_eigenvalue=True)
    model = hubinit.initialize(merged, "pissa", rank=1, target_modules=TARGETS, merge_residual=True)
    g, G = dense(model)
    assert found.rate == pytest.approx(float(g.abs().sum() / (g.sign() @ G @ g.sign())), rel=1e-3)
    assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(G)[-1]), rel=curvature.TOLERANCE)


def test_nothing_to_go_by_is_said() -> None:
    model = adapted()
    with pytest.raises(HubinitError, match="training examples"):
        suggest_learning_rate(model, tokenizer(), [], RECIPE)
    for parameter in model.parameters():
        parameter.data.zero_()
    with pytest.raises(HubinitError, match="suggests no learning rate"):
        suggest_learning_rate(model, tokenizer(), EXAMPLES, RECIPE)


def test_the_loss_is_that_of_the_recipe() -> None:
    model, whole = adapted(), RECIPE.model_copy(update={"loss_on": "all"})
    with (
        prepare_problem(model, tokenizer(), EXAMPLES, RECIPE) as part,
        prepare_problem(model, tokenizer(), EXAMPLES, whole) as full,
    ):
        tokens = sum(int(batch["attention_mask"].sum()) for batch in full.batches)
        assert part.count < full.count == tokens - len(EXAMPLES)  # nothing predicts a first token
