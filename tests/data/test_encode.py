import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

from hubinit import tasks
from hubinit.data.encode import IGNORED, Example, ImageExample, batches, collate, data_hash, encode
from tests.texts import language_model, tokenizer

PLAIN, WITH_BOS = tokenizer(), tokenizer(bos=True)
EOS, BOS = 1, 0
TEXT = st.text(alphabet="Answer: blue\n7#é", min_size=1, max_size=30)


@pytest.fixture(scope="module", params=[PLAIN, WITH_BOS], ids=["plain", "bos"])
def scorer(request: pytest.FixtureRequest) -> HFLM:
    return HFLM(pretrained=language_model(), tokenizer=request.param)


@settings(max_examples=60, deadline=None)
@given(prompt=TEXT.filter(str.strip), completion=TEXT)
def test_tokens_are_those_that_lm_eval_scores(scorer: HFLM, prompt: str, completion: str) -> None:
    context, continuation = scorer._encode_pair(prompt, completion)
    encoded = encode(Example(prompt, completion), scorer.tokenizer, 10_000)
    whole = scorer.tokenizer(prompt + completion)["input_ids"]
    if whole[: len(context)] != context:  # joined at the border, where lm-eval drops text
        assert encoded["input_ids"][-len(whole) - 1 :] == [*whole, EOS]
        learnt = [label for label in encoded["labels"] if label != IGNORED]
        assert prompt.startswith(
            scorer.tokenizer.decode(whole[: len(whole) + 1 - len(learnt)], skip_special_tokens=True)
        )
        return
    assert encoded["input_ids"] == [*context, *continuation, EOS]
    assert encoded["labels"] == [IGNORED] * len(context) + [*continuation, EOS]


def test_nothing_is_lost_where_a_tokenizer_joins_prompt_and_completion() -> None:
    row = {"question": "is the sky blue", "answer": True}
    example = tasks.get("boolq-gen").generative.training(row)  # its completion begins with a line end after a colon
    tokens = joining_tokenizer([example.prompt + example.completion])
    encoded = encode(example, tokens, 10_000)
    assert tokens.decode(encoded["input_ids"]) == example.prompt + example.completion + "</s>"
    learnt = tokens.decode([label for label in encoded["labels"] if label != IGNORED])
    assert learnt == f":\n{' ' * 16}the correct answer is true</s>"


def joining_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that takes line ends to the punctuation before them, as Qwen's and Llama 3's do."""
    inner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+[\r\n]*|\s+(?!\S)|\s+"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts * 3,
        trainers.BpeTrainer(vocab_size=600, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@settings(max_examples=60, deadline=None)
@given(prompt=TEXT.filter(str.strip), completion=TEXT, length=st.integers(2, 40), bos=st.booleans())
def test_truncation_keeps_the_completion_then_the_end_of_the_prompt(
    prompt: str, completion: str, length: int, bos: bool
) -> None:
    tokens = WITH_BOS if bos else PLAIN
    whole = encode(Example(prompt, completion), tokens, 10_000)
    cut = encode(Example(prompt, completion), tokens, length)
    target = [token for token in whole["labels"] if token != IGNORED]
    assert len(cut["input_ids"]) == len(cut["labels"]) == min(length, len(whole["input_ids"]))
    assert cut["labels"][0] == IGNORED  # every kept label has something before it
    kept = [token for token in cut["labels"] if token != IGNORED]
    assert kept == target[: length - 1]
    assert cut["input_ids"][-len(kept) :] == kept
    if len(whole["input_ids"]) > length > len(target):
        head = whole["input_ids"][: len(whole["input_ids"]) - len(target)]
        shown = cut["input_ids"][: length - len(target)]
        if bos and len(shown) > 1:
            assert shown[0] == BOS
            shown = shown[1:]
        assert shown == head[len(head) - len(shown) :]


@pytest.mark.parametrize("tokens", [PLAIN, WITH_BOS], ids=["plain", "bos"])
def test_an_empty_prompt_starts_from_a_special_token(tokens: PreTrainedTokenizerFast) -> None:
    encoded = encode(Example("", "blue"), tokens, 100)
    assert encoded["input_ids"] == [BOS, *PLAIN("blue")["input_ids"], EOS]
    assert encoded["labels"] == [IGNORED, *PLAIN("blue")["input_ids"], EOS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_follow_lengths_and_not_the_pad_id(side: str) -> None:
    features = [encode(Example("What?", completion), PLAIN, 100) for completion in (" blue", " the small bird")]
    batch = collate(features, pad_id=EOS, padding_side=side)
    for row, feature in enumerate(features):
        size = len(feature["input_ids"])
        real = slice(None, size) if side == "right" else slice(-size, None)
        assert batch["input_ids"][row, real].tolist() == feature["input_ids"]
        assert batch["labels"][row, real].tolist() == feature["labels"]
        assert batch["labels"][row, real][-1] == EOS  # the true end stays a target although it is the pad id
        assert batch["attention_mask"][row].sum() == size
        assert (batch["labels"][row] != IGNORED).sum() == sum(label != IGNORED for label in feature["labels"])


def test_batches_hold_every_example_once_long_ones_first() -> None:
    examples = [Example("What is " + "big " * (index * 7 % 10) + "?", f" {index}") for index in range(10)]
    made = batches(examples, PLAIN, batch_size=4, max_length=100)
    assert [len(batch["input_ids"]) for batch in made] == [4, 4, 2]
    lengths = [int(size) for batch in made for size in batch["attention_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    rows = [
        ids[mask.bool()].tolist()
        for batch in made
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(rows) == sorted(encode(example, PLAIN, 100)["input_ids"] for example in examples)


def test_image_batches_take_grey_images() -> None:
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    examples = [
        ImageExample(Image.new(mode, (8, 8), color), 3) for mode, color in (("L", 255), ("RGB", (255, 255, 255)))
    ]
    (batch,) = batches(examples, processor, batch_size=4, max_length=1)
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])
    assert batch["labels"].tolist() == [3, 3]


def test_hash_is_of_content_and_order() -> None:
    one, two = Example("a", "bc"), Example("ab", "c")
    assert data_hash([one, two]) == data_hash([Example("a", "bc"), Example("ab", "c")])
    white, black = (ImageExample(Image.new("L", (2, 2), color), 0) for color in (255, 0))
    hashes = [data_hash(part) for part in ([one], [two], [one, two], [two, one], [white], [black])]
    assert len(set(hashes)) == len(hashes)


def test_the_prompt_may_have_a_loss_too() -> None:
    example = Example("What is the colour of it?", " blue")
    whole, usual = encode(example, PLAIN, 100, "all"), encode(example, PLAIN, 100)
    assert whole["labels"] == [IGNORED, *whole["input_ids"][1:]], "nothing predicts the first token"
    assert whole["input_ids"] == usual["input_ids"]
    assert usual["labels"].count(IGNORED) > 1
    (batch,) = batches([example, Example("a", "b")], PLAIN, batch_size=2, max_length=100, loss_on="all")
    assert torch.equal(batch["labels"][:, 1:] != IGNORED, batch["attention_mask"][:, 1:].bool()), "padding has no loss"
