"""A stand-in for the package vllm: it keeps what it is called with."""

import importlib.machinery
import sys
import types
from typing import Any

import pytest
import torch

from hubinit.scoring import engines
from tests.texts import tokenizer

CALLS: dict[str, Any] = {}


class FakeLLM:
    """Answers every prompt with its number of tokens."""

    def __init__(self, **settings: Any) -> None:
        CALLS["llm"] = settings
        CALLS["loads"] = CALLS.get("loads", 0) + 1
        self.llm_engine = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=200))

    def generate(self, prompts: list[Any], **settings: Any) -> list[Any]:
        CALLS["prompts"], CALLS["generate"] = prompts, settings
        count = settings["sampling_params"].n
        answers = [f"{len(prompt['prompt_token_ids'])} tokens" for prompt in prompts]
        return [types.SimpleNamespace(outputs=[types.SimpleNamespace(text=answer)] * count) for answer in answers]

    def get_tokenizer(self) -> Any:
        return tokenizer()


def fake(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    return module


def use(patch: pytest.MonkeyPatch) -> None:
    """As if vLLM 0.99 were installed, and a GPU of 80 GiB were there, half of it free."""
    CALLS.clear()
    lora = lambda name, number, path: types.SimpleNamespace(name=name, number=number, path=path)  # noqa: E731
    sampling = lambda **settings: types.SimpleNamespace(**settings)  # noqa: E731
    patch.setitem(sys.modules, "vllm", fake("vllm", LLM=FakeLLM, SamplingParams=sampling))
    patch.setitem(sys.modules, "vllm.lora", fake("vllm.lora"))
    patch.setitem(sys.modules, "vllm.lora.request", fake("vllm.lora.request", LoRARequest=lora))
    patch.setattr(engines.importlib.metadata, "version", lambda name: "0.99")
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 2**30, 80 * 2**30))
    engines.load_base.cache_clear()
