"""From examples to batches of tensors, the same for training, validation, calibration and the gates.

Text is encoded exactly as lm-eval encodes a request: spaces at the end of the prompt belong to the completion, prompt and
completion are tokenised together, and what exceeds the prompt's own tokens is the completion. So the model trains on the very
token sequences that it is scored on. Only a tokenizer that joins the two (":" and a line end are one token of Llama 3's and
Qwen's) is an exception: lm-eval drops what is joined, and here it belongs to the completion. Chat templates are not applied
here: a `TokenExample` is encoded already (hubinit.data.own).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

IGNORED = -100  # label of positions without a loss
LossOn = Literal["completion", "all"]  # all: the prompt's tokens too


@dataclass(frozen=True)
class Example:
    """A prompt and the text that the model is to learn to write after it (with its leading space)."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class TokenExample:
    """A text that is already tokens, the end-of-sequence token included; the first `prompt` (at least 1) have no loss."""

    tokens: tuple[int, ...]
    prompt: int


@dataclass(frozen=True)
class ImageExample:
    """A PIL image and the index of its class."""

    image: Any
    label: int


def encode(
    example: Example | TokenExample, tokenizer: Any, max_length: int, loss_on: LossOn = "completion"
) -> dict[str, list[int]]:
    """Token ids and labels of one example: the completion ends with the end-of-sequence token, the prompt mostly has no loss.

    Too long examples lose the beginning of their prompt (a begin-of-sequence token stays); only a completion that is too long
    by itself loses its end.
    """
    return shorten(*tokenise(example, tokenizer), tokenizer, max_length, loss_on)


def encode_all(
    examples: Sequence[Example | TokenExample], tokenizer: Any, max_length: int, loss_on: LossOn = "completion"
) -> tuple[list[dict[str, list[int]]], int]:
    """Encodes examples as `encode` does, and counts those that are too long, which lose tokens."""
    parts = [tokenise(example, tokenizer) for example in examples]
    cut = sum(len(head) + len(kept) > max_length for head, kept in parts)
    return [shorten(head, kept, tokenizer, max_length, loss_on) for head, kept in parts], cut


def shorten(head: list[int], kept: list[int], tokenizer: Any, max_length: int, loss_on: LossOn) -> dict[str, list[int]]:
    """Token ids and labels, at most `max_length` each, of a prompt and its completion."""
    kept = kept[: max_length - 1]
    room = max_length - len(kept)  # at least 1
    if len(head) > room:
        keeps_bos = room > 1 and head[0] == tokenizer.bos_token_id
        head = [head[0], *head[1 - room :]] if keeps_bos else head[-room:]
    unlearnt = len(head) if loss_on == "completion" else 1  # nothing predicts the first token
    return {"input_ids": head + kept, "labels": [IGNORED] * unlearnt + (head + kept)[unlearnt:]}


def tokenise(example: Example | TokenExample, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of the prompt (at least one) and those of the completion, the end-of-sequence token included."""
    if isinstance(example, TokenExample):
        return list(example.tokens[: example.prompt]), list(example.tokens[example.prompt :])
    prompt = example.prompt.rstrip()
    completion = example.prompt[len(prompt) :] + example.completion
    whole = list(tokenizer(prompt + completion)["input_ids"])
    border = count_common(tokenizer(prompt)["input_ids"], whole)
    head, kept = whole[:border], whole[border:]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if eos is not None and kept[-1:] != [eos]:
        kept.append(eos)
    if not head:  # something must come before the first predicted token
        head = [bos if bos is not None else eos]
    return head, kept


def count_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def collate(
    features: Sequence[Mapping[str, Sequence[int]]], pad_id: int, padding_side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Pads encoded examples to one length. Masks follow lengths, never ids: the pad id may be a real token (often EOS).

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (examples, longest).
    """
    longest = max(len(feature["input_ids"]) for feature in features)

    def padded(values: Sequence[int], fill: int) -> list[int]:
        missing = [fill] * (longest - len(values))
        return [*missing, *values] if padding_side == "left" else [*values, *missing]

    return {
        "input_ids": torch.tensor([padded(f["input_ids"], pad_id) for f in features]),  # (B, T)
        "attention_mask": torch.tensor([padded([1] * len(f["input_ids"]), 0) for f in features]),  # (B, T)
        "labels": torch.tensor([padded(f["labels"], IGNORED) for f in features]),  # (B, T)
    }


def collate_images(examples: Sequence[ImageExample], processor: Any) -> dict[str, Tensor]:
    """Preprocesses images, grey ones included.

    Returns:
        `pixel_values` (examples, 3, height, width) and `labels` (examples,).
    """
    pixels = processor(images=[example.image.convert("RGB") for example in examples], return_tensors="pt")
    return {
        "pixel_values": pixels["pixel_values"],  # (B, 3, H, W)
        "labels": torch.tensor([example.label for example in examples]),  # (B,)
    }


def batches(
    examples: Sequence[Example | TokenExample] | Sequence[ImageExample],
    processor: Any,
    *,
    batch_size: int,
    max_length: int,
    loss_on: LossOn = "completion",
) -> list[dict[str, Tensor]]:
    """All examples as batches on the CPU; texts from long to short, so that little is padding and memory runs out first if ever.

    Args:
        examples: texts or images, not mixed.
        processor: the tokenizer or image processor of the model.
        batch_size: examples per batch; the last one may be smaller.
        max_length: tokens per text.
        loss_on: which tokens of a text have a loss.
    """
    if examples and isinstance(examples[0], ImageExample):
        groups = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
        return [collate_images(group, processor) for group in groups]  # type: ignore[arg-type]
    features, _ = encode_all(examples, processor, max_length, loss_on)  # type: ignore[arg-type]
    features.sort(key=lambda feature: -len(feature["input_ids"]))
    return [
        collate(features[start : start + batch_size], pad_id(processor))
        for start in range(0, len(features), batch_size)
    ]


def pad_id(tokenizer: Any) -> int:
    """The id that fills up short sequences; which one does not matter, as nothing attends to it."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def data_hash(examples: Sequence[Example | TokenExample] | Sequence[ImageExample]) -> str:
    """The sha256 of the examples' content and order."""
    digest = hashlib.sha256()
    for example in examples:
        if isinstance(example, ImageExample):
            image = example.image
            parts = [f"{image.mode} {image.size} {example.label}".encode(), image.tobytes()]
        elif isinstance(example, TokenExample):
            parts = [f"{example.prompt} {example.tokens}".encode()]
        else:
            parts = [example.prompt.encode(), example.completion.encode()]
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
