"""Where free-text answers come from: transformers with the base in memory, or vLLM.

vLLM generates and does nothing else here: log-likelihoods stay on transformers. We have not run it on a GPU so far.
"""

import importlib.metadata
import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hubinit.errors import HubinitError, first_line
from hubinit.models.base import download
from hubinit.records import ANCHOR, Provenance
from hubinit.scoring.spec import Progress
from hubinit.specs import EvalSpec, ModelSpec
from hubinit.tasks import get, harness, named
from hubinit.tasks.spec import Decoding

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves memory for, of its LoRAConfig
MEMORY = 0.9  # of what is free on the GPU goes to vLLM
_NUMBERS = itertools.count(1)  # vLLM tells adapters apart by a number


@dataclass(frozen=True)
class VllmModel:
    """A base in vLLM with one adapter, or without.

    Attributes:
        llm: vLLM's object.
        room: tokens of prompt and answer.
        adapter: vLLM's request for the adapter.
    """

    llm: Any
    room: int
    adapter: Any = None

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_progress: Progress = lambda done, total: None
    ) -> list[list[str]]:
        """Continues prompts.

        Args:
            prompts: tokens.
            decoding: how; the samples are seeded.
            on_progress: called once at the end.

        Returns:
            For each prompt its samples, without the stop texts.

        Raises:
            HubinitError: a decoding that vLLM does not have, or prompts that do not fit.
        """
        if decoding.beams > 1 or decoding.no_repeat_ngram:
            raise HubinitError(
                f"vLLM does not search {decoding.beams} beams as transformers does; use --engine transformers."
            )
        if long := [prompt for prompt in prompts if len(prompt) + decoding.max_new_tokens > self.room]:
            raise HubinitError(f"{len(long)} of {len(prompts)} prompts do not fit into the context of {self.room}.")
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            sampling_params=sampling(decoding),
            lora_request=self.adapter,
            use_tqdm=False,
        )
        on_progress(len(prompts), len(prompts))
        return [[answer.text for answer in output.outputs] for output in outputs]


def sampling(decoding: Decoding) -> Any:
    """The decoding as vLLM takes it; nothing of what the model's repository prefers but its end-of-sequence tokens."""
    from vllm import SamplingParams

    return SamplingParams(
        n=decoding.samples,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=decoding.max_new_tokens,
        stop=list(decoding.stop),
        seed=0,
        skip_special_tokens=True,
    )


def vllm_version() -> str:
    """Of the installed vLLM.

    Raises:
        HubinitError: there is none, or no GPU.
    """
    if importlib.util.find_spec("vllm") is None:
        raise HubinitError("vLLM is not installed: `pip install vllm`, or use --engine transformers.")
    if not torch.cuda.is_available():
        raise HubinitError("vLLM needs a GPU, and torch sees none here; use --engine transformers.")
    return importlib.metadata.version("vllm")


def load_vllm(spec: ModelSpec, adapter: Path | None = None) -> VllmModel:
    """A base in vLLM, which is loaded once for all adapters of one rank class, and an adapter.

    Args:
        spec: the base.
        adapter: folder of a plain LoRA adapter.

    Raises:
        HubinitError: vLLM is not there, or cannot run this base or this adapter.
    """
    vllm_version()
    rank = lora_rank(adapter) if adapter else None
    try:
        llm = load_base(spec, rank)
        room = int(llm.llm_engine.model_config.max_model_len)
        if adapter is None:
            return VllmModel(llm, room)
        from vllm.lora.request import LoRARequest

        number = next(_NUMBERS)
        return VllmModel(llm, room, LoRARequest(f"adapter-{number}", number, str(adapter)))
    except (RuntimeError, ValueError, OSError, ImportError) as error:  # its engine's process says no more than that
        raise HubinitError(f"vLLM cannot load {spec.id}: {first_line(error)}; use --engine transformers.") from error


@cache
def load_base(spec: ModelSpec, rank: int | None) -> Any:
    """VLLM's object for a base, with room for adapters up to a rank; the memory is a part of what is free."""
    from vllm import LLM

    free, total = torch.cuda.mem_get_info()
    return LLM(
        model=str(download(spec)),
        dtype=spec.dtype,
        trust_remote_code=spec.trust_remote_code,
        seed=0,
        gpu_memory_utilization=round(MEMORY * free / total, 3),
        enable_lora=rank is not None,
        **({} if rank is None else {"max_lora_rank": rank}),
    )


def lora_rank(adapter: Path) -> int:
    """The smallest rank that vLLM reserves memory for and that holds an adapter.

    Raises:
        HubinitError: the adapter is more than plain LoRA, or of too high a rank.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_bytes())
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubinitError(f"{adapter} is not a LoRA adapter that vLLM can load: {first_line(error)}.") from error
    more = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if config.get(name)]
    more += [f"type {config['peft_type']}"] if config.get("peft_type") != "LORA" else []
    more += ["a trained bias"] if config.get("bias", "none") != "none" else []
    more += ["an anchor"] if (adapter / ANCHOR).is_dir() else []
    more += ["a base that is rewritten"] if isinstance(config.get("init_lora_weights"), str) else []
    if more:
        raise HubinitError(
            f"{adapter} is more than plain LoRA ({', '.join(more)}), which vLLM cannot load; use --engine transformers."
        )
    if rank > RANKS[-1]:
        raise HubinitError(f"{adapter} has rank {rank}, and vLLM takes {RANKS[-1]} at most; use --engine transformers.")
    return next(size for size in RANKS if size >= rank)


def with_vllm(provenance: Provenance) -> Provenance:
    """The provenance of scores whose answers vLLM wrote."""
    return provenance.model_copy(update={"versions": {**provenance.versions, "vllm": vllm_version()}})


def generates(evaluation: EvalSpec) -> bool:
    """Whether an evaluation asks for free text and nothing else, which is what vLLM is for.

    Raises:
        HubinitError: an unknown task, or data that cannot be had.
    """
    task = get(evaluation.task)
    if named.is_named(task.name):
        definitions = named.load(task, evaluation.revision)["tasks"].values()
    elif task.harness:
        definitions = [harness.load(task, evaluation.revision)]
    else:
        return task.generative is not None
    return all(definition.OUTPUT_TYPE == "generate_until" for definition in definitions)
