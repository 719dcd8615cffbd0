"""Language tasks through lm-eval, with the model object: its definitions, its filters, its metrics.

The model is passed as it is, with whatever adapters are active, so one base in memory serves all runs. lm-eval's own adapter
loading is never used: it has scored the bare base silently.
"""

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from torch.nn.utils.rnn import pad_sequence

from hubinit.errors import HubinitError
from hubinit.records import Item
from hubinit.scoring.batching import in_batches
from hubinit.scoring.engines import VllmModel
from hubinit.scoring.generation import cut
from hubinit.scoring.loglikelihood import can_share, log_likelihoods
from hubinit.scoring.rules import grade_by_rules, read_answer
from hubinit.scoring.spec import Progress, Scored, Scorer, mean_scores
from hubinit.specs import EvalSpec
from hubinit.tasks import harness
from hubinit.tasks.spec import Decoding, Task

INVALID = "[invalid]"  # what lm-eval's answer filters return when they find no answer


def score_text(
    task: Task, model: Any, tokenizer: Any, evaluation: EvalSpec, batch_size: int, on_progress: Progress
) -> Scored:
    """Scores a language task with lm-eval's definition; standard errors are s/√n of the per-example values."""
    from lm_eval.evaluator import evaluate as run

    definition = harness.load(task, evaluation.revision)
    definition.set_config("num_fewshot", evaluation.shots)
    definition.set_fewshot_seed(1234)  # lm-eval's own
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # its progress bars have no other switch
            results = run(
                lm_eval_model(model, tokenizer, batch_size, on_progress),
                {"tasks": {task.harness: definition}},
                limit=evaluation.limit,
                bootstrap_iters=0,
                log_samples=True,
            )
    except AssertionError as error:  # lm-eval's way to say that the model's context is too short for the task
        raise HubinitError(f"Task '{task.name}' cannot be scored on this model: {error}") from error
    free = definition.OUTPUT_TYPE == "generate_until"
    items = items_of(results["samples"][task.harness], task, definition)
    primary = metric_name(*task.primary.split(","))
    return Scored(mean_scores(items, task, evaluation, invalid=free, primary=primary), items)


def items_of(samples: Sequence[Mapping[str, Any]], task: Task, definition: Any) -> list[Item]:
    """lm-eval's samples of one task as items, in the order of the documents."""
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    choices: Callable[[Any], Sequence[str]] | None = None
    if definition.OUTPUT_TYPE != "generate_until":
        choices = definition.doc_to_choice if definition.OUTPUT_TYPE == "multiple_choice" else lambda document: ()
    return [item_of(of_one, task, choices) for _, of_one in sorted(by_document.items())]


def item_of(samples: Sequence[Mapping[str, Any]], task: Task, choices: Callable[[Any], Sequence[str]] | None) -> Item:
    """One document from lm-eval's samples of it, one per filter; the task's own rules read the same output.

    Args:
        samples: as lm-eval logs them.
        task: whose rules read a free text.
        choices: document ─► texts that the model chooses from; None: it answers in free text.
    """
    first = samples[0]
    extracted, values = {}, {}
    for sample in samples:
        for metric in sample["metrics"]:
            name = metric_name(metric, sample["filter"])
            if isinstance(sample[metric], SupportsFloat):  # a metric of the whole set has something else per document
                values[name] = float(sample[metric])
            if choices is None and INVALID not in sample["filtered_resps"]:
                extracted[name] = str(sample["filtered_resps"][0])
    if choices is not None:
        responses = [one[0] if isinstance(one, Sequence) else one for one in first["filtered_resps"]]
        likelihoods = tuple(float(one) for one in responses)
        return Item(
            id=str(first["doc_id"]),
            prompt_hash=first["prompt_hash"][:16],
            extracted=choose(texts, likelihoods, values) if (texts := choices(first["doc"])) else {},
            values=values,
            log_likelihoods=likelihoods,
        )
    outputs = tuple(first["resps"][0])
    own = read_answer(task, str(first["doc_id"]), first["doc"], outputs)
    return own.model_copy(
        update={
            "prompt_hash": first["prompt_hash"][:16],
            "extracted": {**own.extracted, **extracted},
            "values": {**own.values, **values},
        }
    )


def choose(choices: Sequence[str], likelihoods: Sequence[float], metrics: Iterable[str]) -> dict[str, str]:
    """The choice that each of lm-eval's accuracies takes: the likeliest one, per character or per byte where it says so."""
    lengths: dict[str, Callable[[str], int]] = {
        "acc": lambda choice: 1,
        "acc_norm": len,
        "acc_bytes": lambda choice: len(choice.encode()),
    }

    def take(length: Callable[[str], int]) -> str:
        worth = [value / (length(choice) or 0.1) for choice, value in zip(choices, likelihoods, strict=True)]
        return choices[worth.index(max(worth))]

    return {metric: take(lengths[metric]) for metric in metrics if metric in lengths}


def metric_name(metric: str, rule: str) -> str:
    """lm-eval's metric and filter as one name."""
    return metric if rule == "none" else f"{metric},{rule}"


@dataclass(frozen=True)
class Answering:
    """A model in vLLM in lm-eval's clothes; it only generates."""

    model: VllmModel
    tokenizer: Any
    on_progress: Progress
    rank: int = 0
    world_size: int = 1

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers each request by its own decoding; a prompt that is too long loses its beginning, as in lm-eval."""
        answers: dict[int, str] = {}
        wanted = [decoding_of(request.args[1]) for request in requests]
        for decoding in dict.fromkeys(wanted):
            chosen = [index for index, other in enumerate(wanted) if other == decoding]
            room = self.model.room - decoding.max_new_tokens
            prompts = [self.tokenizer(requests[index].args[0])["input_ids"][-room:] for index in chosen]
            texts = self.model.generate(prompts, decoding)
            answers.update((index, cut(text, decoding.stop)) for index, [text] in zip(chosen, texts, strict=True))
            self.on_progress(len(answers), len(requests))
        return [answers[index] for index in range(len(requests))]


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """lm-eval's generation settings of a request.

    Raises:
        HubinitError: one that vLLM is not told of.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    known = dict(normalize_gen_kwargs(dict(settings), 256))  # lm-eval's number where a definition has none
    until, tokens, sampled = known.pop("until"), known.pop("max_gen_toks"), known.pop("do_sample")
    temperature = known.pop("temperature", 0.0)
    decoding = Decoding(
        max_new_tokens=tokens,
        temperature=temperature if sampled else 0.0,
        top_p=known.pop("top_p", 1.0),
        beams=known.pop("num_beams", 1),
        stop=tuple(text for text in until if text),
    )
    if known:
        raise HubinitError(f"The task decodes with {', '.join(known)}, which vLLM is not told of; leave out --engine.")
    return decoding


def lm_eval_model(model: Any, tokenizer: Any, batch_size: int, on_progress: Progress) -> Any:
    """The model in lm-eval's clothes: log-likelihoods by our own trees, which are faster, and no progress bars."""
    if isinstance(model, VllmModel):
        return Answering(model, tokenizer, on_progress)
    from lm_eval.models.huggingface import HFLM

    class Reporting(HFLM):  # type: ignore[misc]
        """Tokens, truncation and generation are lm-eval's."""

        done = total = 0

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            self.done, self.total = 0, len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            self.done, self.total = 0, len(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=True)  # type: ignore[no-any-return]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            self.done, self.total = 0, len(requests)
            return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            wanted = [
                ((*context, *continuation)[-(self.max_length + 1) :], len(continuation))  # too long: the beginning goes
                for _, context, continuation in requests
            ]
            share = can_share(model, wanted)
            return log_likelihoods(model, wanted, batch_size=batch_size, share=share, on_progress=self.advance)

        def _model_generate(
            self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any
        ) -> torch.Tensor:
            mask = kwargs.pop("attention_mask")  # (B, T)
            rows: list[torch.Tensor] = []

            def answer(some: Sequence[int]) -> None:
                part = slice(some[0], some[-1] + 1)
                settings = {**kwargs, "attention_mask": mask[part]}
                rows.extend(HFLM._model_generate(self, context[part], max_length, stop, **settings))
                self.advance(len(some))

            in_batches(range(len(context)), len(context), answer)
            return pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)  # (B, T + new)

        def advance(self, count: int) -> None:
            self.done = min(self.done + count, self.total)
            on_progress(self.done, self.total)

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return Reporting(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


LM_EVAL = Scorer(
    name="lm-eval",
    title="lm-eval's own definition: prompt, filter, metric",
    score=score_text,
    grade=grade_by_rules,  # of the free-text tasks, which have rules
)
