"""Batches that do not fit are done in halves, and nobody notices but the clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hubinit.scoring.batching import in_batches
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import generate
from hubinit.scoring.loglikelihood import log_likelihoods
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Decoding
from tests import definitions
from tests.texts import language_model, tokenizer

PROMPTS = [f"{'The answer is ' * (index % 3)}{index}" for index in range(7)]


@contextmanager
def memory_for(model: torch.nn.Module, rows: int) -> Iterator[list[int]]:
    """A model whose memory suffices for so many rows; gives the sizes of the batches that fitted."""
    fitted: list[int] = []

    def check(module: Any, args: Any, kwargs: Any) -> None:
        size = len(next(iter(kwargs.values())))  # input_ids or pixel_values
        if size > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fitted.append(size)

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield fitted
    finally:
        handle.remove()


def test_every_item_is_run_once_in_order() -> None:
    done: list[int] = []
    sizes: list[int] = []

    def run(batch: Any) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        done.extend(batch)

    in_batches(range(20), 16, run)
    assert done == list(range(20))
    assert sizes == [2] * 10
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(range(2), 2, lambda batch: run(range(9)))


def test_heavy_items_are_batches_of_their_own() -> None:
    seen: list[list[int]] = []
    in_batches([9, 1, 3, 2, 2], 4, lambda batch: seen.append(list(batch)), weight=lambda item: item)
    assert seen == [[9], [1, 3], [2, 2]]


@pytest.mark.parametrize(
    "decoding", [Decoding(max_new_tokens=4), Decoding(max_new_tokens=4, beams=2)], ids=["greedy", "beams"]
)
def test_answers_stay_the_same(decoding: Decoding) -> None:
    model, tokens = language_model(), tokenizer()
    enough = generate(model, tokens, PROMPTS, decoding, batch_size=7)
    with memory_for(model, 2 * decoding.beams) as fitted:
        assert generate(model, tokens, PROMPTS, decoding, batch_size=7) == enough
    assert 0 < max(fitted) <= 2 * decoding.beams


def test_log_likelihoods_stay_the_same() -> None:
    model, tokens = language_model(), tokenizer()
    requests = [(tokens(text)["input_ids"] + [5 + index], 1) for index, text in enumerate(PROMPTS)]
    enough = [value for value, _ in log_likelihoods(model, requests, batch_size=7, share=False)]
    with memory_for(model, 3) as fitted:
        less = [value for value, _ in log_likelihoods(model, requests, batch_size=7, share=False)]
    assert less == pytest.approx(enough, abs=1e-5)
    assert max(fitted) == 3


def test_lm_evals_answers_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions.use(tmp_path, monkeypatch)
    model, seen = language_model(), []

    def outputs() -> list[tuple[str, ...]]:
        note = lambda done, total: seen.append((done, total))  # noqa: E731
        scored = evaluate_one(model, tokenizer(), EvalSpec(task="lm-eval:free"), batch_size=3, on_progress=note)
        return [item.outputs for item in scored.items]

    enough = outputs()
    with memory_for(model, 1) as fitted:
        assert outputs() == enough
    assert max(fitted) == 1
    assert seen[-1] == (3, 3)
