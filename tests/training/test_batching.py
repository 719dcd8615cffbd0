"""Length-grouped and packed batches hold to the plain ones: the same examples per step, and the same loss and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hubinit.data.encode import IGNORED
from hubinit.errors import HubinitError
from hubinit.specs import Batching, Recipe
from hubinit.training.batching import check_packing, group_by_length, pack
from hubinit.training.losses import completion_loss
from tests import cases
from tests.training.test_trainer import EXAMPLES, RECIPE, adapted, run, token_losses, trained

SIZES = (7, 12, 3, 20)


def features(seed: int = 0) -> list[dict[str, list[int]]]:
    """Random rows of very different lengths; the first third of each is its prompt."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, cases.VOCAB, (size,), generator=generator).tolist() for size in SIZES]
    return [{"input_ids": row, "labels": [IGNORED] * (len(row) // 3) + row[len(row) // 3 :]} for row in rows]


def loss_and_gradients(model: Any, batches: list[dict[str, Any]], count: int) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        labels = batch.pop("labels")
        loss = completion_loss(model(**batch), labels, count)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [name for name in (*cases.CAUSAL, *cases.MOE) if name != "opt"])
def test_a_packed_row_has_the_loss_and_the_gradients_of_its_examples_one_by_one(name: str) -> None:
    model, rows = cases.build(name), features()
    check_packing(model, rows)
    alone = [{key: torch.tensor([value]) for key, value in row.items()} for row in rows]
    count = sum(int((row["labels"][:, 1:] != IGNORED).sum()) for row in alone)
    expected, wanted = loss_and_gradients(model, alone, count)
    found, own = loss_and_gradients(model, [pack(rows)], count)
    assert found == pytest.approx(expected, rel=1e-5)
    assert own.keys() == wanted.keys()
    for key, value in wanted.items():
        assert float((own[key] - value).norm()) <= 1e-4 * float(value.norm()) + 1e-6, key


def test_a_model_whose_examples_see_each_other_is_refused() -> None:
    with pytest.raises(
        HubinitError, match=r"batching=packed does not fit this model.*see each other.*use length-grouped"
    ):
        check_packing(cases.build("opt"), features())  # transformers' OPT has no packed mask
    blind = cases.build("llama")
    inner = blind.forward
    blind.forward = lambda input_ids, use_cache: inner(input_ids=input_ids)  # type: ignore[method-assign, misc]
    with pytest.raises(HubinitError, match=r"does not fit this model.*unexpected keyword argument 'position_ids'"):
        check_packing(blind, features())


@pytest.mark.parametrize("batching", ["length-grouped", "packed"])
@pytest.mark.parametrize("micro", [2, 4])
def test_the_steps_are_those_of_plain_batches(batching: Batching, micro: int, tmp_path: Path) -> None:
    # seven examples: the last step of an epoch is smaller, and its last pass too
    recipe = Recipe(epochs=1, batch_size=4, micro_batch_size=micro, max_length=64, weight_decay=0.1)
    plain, other = adapted(), adapted()
    expected = run(plain, tmp_path, recipe, examples=EXAMPLES[:7], learning_rate=1e-3)
    outcome = run(
        other, tmp_path, recipe.model_copy(update={"batching": batching}), examples=EXAMPLES[:7], learning_rate=1e-3
    )
    assert outcome.steps == expected.steps == 2
    for one, two in zip(outcome.curve, expected.curve, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-4)
    for name, value in trained(plain).items():
        torch.testing.assert_close(trained(other)[name], value, rtol=1e-3, atol=1e-5)


def test_a_penalty_counts_once_in_packed_rows(tmp_path: Path) -> None:
    model = adapted()
    parameter = next(p for p in model.parameters() if p.requires_grad)
    loss = torch.cat([token_losses(model, example) for example in EXAMPLES]).mean() + parameter.square().sum()
    recipe = RECIPE.model_copy(update={"steps": 1, "batch_size": 8, "batching": "packed"})
    (point,) = run(model, tmp_path, recipe, penalty=lambda: parameter.square().sum()).curve
    assert point.loss == pytest.approx(loss.item(), rel=1e-5)


def test_groups_hold_each_example_once_and_little_padding() -> None:
    rows = features()
    groups = group_by_length(rows, 2)
    assert [[len(row["input_ids"]) for row in group] for group in groups] == [[20, 12], [7, 3]]
    assert sorted(map(id, (row for group in groups for row in group))) == sorted(map(id, rows))
    assert [len(group) for group in group_by_length(rows[:3], 2)] == [2, 1]


def test_a_bfloat16_base_is_not_refused_for_its_rounding() -> None:
    check_packing(cases.build("llama", dtype=torch.bfloat16), features())
