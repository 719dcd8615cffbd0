"""Free-text answers: prompts ─► outputs, batched by length, with the base in memory and whatever adapters are active."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from hubinit.data.encode import pad_id
from hubinit.errors import HubinitError
from hubinit.scoring.batching import in_batches
from hubinit.scoring.engines import VllmModel
from hubinit.scoring.spec import Grade, Progress, Rule, Scored
from hubinit.specs import EvalSpec
from hubinit.tasks import rows
from hubinit.tasks.spec import Decoding, Task


def scores_generated(grade: Grade) -> Rule:
    """The rule of a scorer that lets the model answer and hands the outputs to `grade`."""

    def score(
        task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
    ) -> Scored:
        asks = task.generative
        assert asks is not None
        if evaluation.shots:
            raise HubinitError(f"Task '{task.name}' has a fixed prompt; leave out --shots.")
        documents = rows.read_documents(task, evaluation.revision, evaluation.limit)
        before = asks.before(task, evaluation.revision) if asks.before else ""
        prompts = [before + asks.prompt(document) for document in documents.values()]
        decoding = wanted_decoding(task, evaluation)
        outputs = generate(model, tokenizer, prompts, decoding, batch_size=batch_size, on_progress=on_progress)
        graded = grade(task, documents, outputs, evaluation)
        items = [
            item.model_copy(update={"prompt_hash": hash_of(prompt)})
            for item, prompt in zip(graded.items, prompts, strict=True)
        ]
        return replace(graded, items=items)

    return score


def wanted_decoding(task: Task, evaluation: EvalSpec) -> Decoding:
    """The task's decoding, with as many samples as the evaluation asks for."""
    assert task.generative is not None
    decoding = task.generative.decoding
    if evaluation.samples is None or evaluation.samples == decoding.samples:
        return decoding
    sampling = task.generative.sampling or decoding
    if sampling.temperature == 0:
        raise HubinitError(
            f"Task '{task.name}' decodes without sampling: all samples would be equal; leave out --samples."
        )
    return replace(sampling, samples=evaluation.samples)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    decoding: Decoding,
    *,
    batch_size: int,
    on_progress: Progress = lambda done, total: None,
) -> list[list[str]]:
    """Lets a model continue prompts; neither their order nor the batch size changes a greedy answer but by rounding.

    Sampling is seeded per call, so the same command gives the same answers on the same machine.

    Args:
        model: a language model, with or without PEFT adapters; the active ones count. Or one in vLLM.
        tokenizer: its tokenizer.
        prompts: texts, or their tokens where special ones are in them already.
        decoding: how.
        batch_size: prompts per forward pass, fewer where memory does not suffice; each takes `beams` or `samples` rows.
        on_progress: called with (prompts done, prompts in all).

    Returns:
        For each prompt its samples, without the stop texts.

    Raises:
        HubinitError: a prompt leaves too little of the model's context for an answer.
    """
    encoded = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    if isinstance(model, VllmModel):
        return model.generate(encoded, decoding, on_progress)
    check_room(model, encoded, decoding)
    order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
    outputs: list[list[str]] = [[] for _ in prompts]
    config = generation_config(model, tokenizer, decoding)

    def answer(chosen: Sequence[int]) -> None:
        longest = len(encoded[chosen[0]])
        padding = [longest - len(encoded[index]) for index in chosen]
        ids = [[pad_id(tokenizer)] * pad + encoded[index] for pad, index in zip(padding, chosen, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        tokens = model.generate(
            input_ids=torch.tensor(ids, device=model.device),  # (B, T)
            attention_mask=torch.tensor(mask, device=model.device),  # (B, T)
            generation_config=config,
            logits_processor=without_repeats(decoding, longest),
            stopping_criteria=at_stop_texts(tokenizer, decoding, longest),
        )  # (B · samples, T + new)
        texts = tokenizer.batch_decode(tokens[:, longest:], skip_special_tokens=True)
        for place, index in enumerate(chosen):
            samples = texts[place * decoding.samples : (place + 1) * decoding.samples]
            outputs[index] = [cut(text, decoding.stop) for text in samples]
        on_progress(sum(map(bool, outputs)), len(order))

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        in_batches(order, batch_size, answer)
    return outputs


def generation_config(model: Any, tokenizer: Any, decoding: Decoding) -> GenerationConfig:
    """The decoding as transformers takes it; nothing of what the model's repository prefers but its end-of-sequence tokens.

    Training ends every answer with the tokenizer's, which need not be among them.
    """
    own = model.generation_config.eos_token_id
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    sampled = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.temperature else {}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.temperature > 0,
        num_beams=decoding.beams,
        num_return_sequences=decoding.samples,
        length_penalty=decoding.length_penalty,
        repetition_penalty=1.0,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad_id(tokenizer),
        **sampled,
    )


class OfAnswer(LogitsProcessor, StoppingCriteria):  # type: ignore[misc]
    """What transformers would do with prompt and answer, done with the answer alone.

    A name that the prompt has is not a repetition, and a stop text that begins in the prompt ends nothing. So the programs count
    that the decodings come from (microsoft/LoRA's gpt2_beam.py, vLLM, lm-eval).
    """

    def __init__(self, inner: Any, prompt: int) -> None:
        """Keeps what is to be done, and how many tokens of each row are prompt and padding."""
        self.inner, self.prompt = inner, prompt

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        """Of rows (B, T + new) and their next scores (B, V): scores (B, V), or whether each row ends (B,)."""
        done: Tensor = self.inner(input_ids[:, self.prompt :], scores)
        return done


def without_repeats(decoding: Decoding, prompt: int) -> LogitsProcessorList:
    """Takes the probability of tokens that would repeat a sequence of the answer."""
    size = decoding.no_repeat_ngram
    return LogitsProcessorList([OfAnswer(NoRepeatNGramLogitsProcessor(size), prompt)] if size else [])


def at_stop_texts(tokenizer: Any, decoding: Decoding, prompt: int) -> StoppingCriteriaList:
    """Ends a row when its answer holds a stop text."""
    stop = list(decoding.stop)
    return StoppingCriteriaList([OfAnswer(StopStringCriteria(tokenizer, stop), prompt)] if stop else [])


def check_room(model: Any, encoded: Sequence[Sequence[int]], decoding: Decoding) -> None:
    """Refuses prompts that do not fit, before anything is generated.

    Raises:
        HubinitError: some do not.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    if room is None:
        return
    long = [len(ids) for ids in encoded if len(ids) + decoding.max_new_tokens > room]
    if long:
        raise HubinitError(
            f"{len(long)} of {len(encoded)} prompts (up to {max(long)} tokens) and their answers of "
            f"{decoding.max_new_tokens} tokens do not fit into the model's context of {room}."
        )


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop text."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def hash_of(text: str) -> str:
    """16 hex digits that name a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
