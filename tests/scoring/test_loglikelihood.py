"""Trees give what single sequences give, in every layout, batch and order; models that cannot are noticed."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, MistralConfig

from hubinit.scoring.loglikelihood import Request, can_share, group, log_likelihoods, plant
from tests.scoring.test_lm_eval import adapted
from tests.texts import language_model

VOCABULARY = 200
SMALL = {"vocab_size": VOCABULARY, "initializer_range": 0.3}


def brute_force(model, requests: list[Request]) -> list[tuple[float, bool]]:
    """One sequence at a time, in float64."""
    answers = []
    for tokens, scored in requests:
        ids = torch.tensor(tokens)
        with torch.no_grad():
            logs = model.double()(ids[None]).logits[0].log_softmax(-1)  # (T, V)
        places = range(len(tokens) - scored, len(tokens))
        value = sum(float(logs[place - 1, ids[place]]) for place in places)
        answers.append((value, all(int(logs[place - 1].argmax()) == int(ids[place]) for place in places)))
    return answers


def questions(seed: int = 0, count: int = 5) -> list[Request]:
    """Prompts with two to five continuations each; some begin with the same token, one is a single token."""
    draw = random.Random(seed)
    requests: list[Request] = []
    for _ in range(count):
        prompt = [draw.randrange(VOCABULARY) for _ in range(draw.randrange(2, 12))]
        for _ in range(draw.randrange(2, 6)):
            end = [draw.randrange(3), *(draw.randrange(VOCABULARY) for _ in range(draw.randrange(4)))]
            requests.append(([*prompt, *end], len(end)))
    return requests


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("share", [True, False])
def test_every_layout_gives_the_answers_of_single_sequences(batch_size: int, share: bool) -> None:
    requests = questions()
    wanted = brute_force(language_model(), requests)
    seen: list[int] = []
    found = log_likelihoods(language_model(), requests, batch_size=batch_size, share=share, on_progress=seen.append)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=2e-4)
    assert [top for _, top in found] == [top for _, top in wanted]
    assert sum(seen) == len(requests)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=6), st.integers(1, 5)), min_size=1, max_size=8)
)
def test_any_sequences_at_all(drawn: list[tuple[list[int], int]]) -> None:
    requests = [(tokens, min(scored, len(tokens) - 1)) for tokens, scored in drawn]
    model = language_model()
    found = log_likelihoods(model, requests, batch_size=4)
    assert [value for value, _ in found] == pytest.approx(
        [value for value, _ in brute_force(model, requests)], abs=2e-4
    )


def test_the_likeliest_continuation_is_recognised() -> None:
    model, prompt = language_model(), [5, 6, 7]
    with torch.no_grad():
        best = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    found = log_likelihoods(model, [([*prompt, best], 1), ([*prompt, (best + 1) % VOCABULARY], 1)], batch_size=2)
    assert [top for _, top in found] == [True, False]


def test_adapters_count_also_on_the_output_layer() -> None:
    requests = questions(1)
    model = adapted()
    found = log_likelihoods(model, requests, batch_size=8)
    assert [value for value, _ in found] == pytest.approx([v for v, _ in brute_force(model, requests)], abs=5e-4)


def test_a_tree_holds_the_common_part_once() -> None:
    tree = plant([([1, 2, 3, 4, 5], 2), ([1, 2, 3, 6, 7, 8], 3), ([1, 2, 3, 9], 1)])
    assert tree.tokens == (1, 2, 3, 4, 6, 7)
    assert tree.positions == (0, 1, 2, 3, 3, 4)
    assert tree.branches == (0, 0, 0, 1, 2, 2)
    assert [leaf.cells for leaf in tree.leaves] == [(2, 3), (2, 4, 5), (2,)]
    assert [leaf.targets for leaf in tree.leaves] == [(4, 5), (6, 7, 8), (9,)]


def test_only_neighbours_that_share_half_are_grouped() -> None:
    requests = [([1, 2, 3, 4], 1), ([1, 2, 3, 5], 1), ([1, 9, 9, 9], 1), ([1, 9, 9, 8], 1), ([1, 2, 3, 4], 1)]
    assert group(requests) == [range(2), range(2, 4), range(4, 5)]


MODELS = {
    "gpt2": (GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SMALL), True),
    "window": (  # looks back four tokens only
        MistralConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            sliding_window=4, **SMALL,
        ),
        False,
    ),
    "alibi": (BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SMALL), False),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_share_are_noticed_and_scored_right_all_the_same(name: str) -> None:
    config, able = MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    requests = questions(2)
    share = can_share(model, requests)
    assert share is able
    found = log_likelihoods(model, requests, batch_size=3, share=share)
    wanted = brute_force(model, requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=2e-4)


def test_a_model_that_ignores_the_mask_is_noticed() -> None:
    model = language_model()
    forward = model.model.forward

    def without_mask(*args, attention_mask=None, **kwargs):
        return forward(*args, attention_mask=None, **kwargs)

    model.model.forward = without_mask
    assert can_share(language_model(), questions())
    assert not can_share(model, questions())
