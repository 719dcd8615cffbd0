"""What `init_time.py` measures on: a real model, or the shape of one with random weights, and its calibration batches.

Random weights get a power-law spectrum: `σ_i ∝ i^−p` exactly (before rounding to the model's dtype), with random singular
vectors. So the subspaces that the methods look for are defined, and the spectra look like those of trained layers.
"""

import argparse
import hashlib
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn

from hubinit.models.layers import target_layers

POWER = 0.5  # p; the top 32 of 576 singular values then hold 60 % of ‖W‖²
LLAMA3 = {"vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {  # to try a command, not to measure
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "rope_theta": 1e5,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
        **LLAMA3,
    },
    "llama3.2-3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
        **LLAMA3,
    },
    "llama3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        **LLAMA3,
    },
}


@dataclass(frozen=True)
class Subject:
    """A model on its device, the calibration batches, and a description of both for the record."""

    model: Any
    batches: list[dict[str, Tensor]]
    facts: dict[str, Any]


def subject(options: argparse.Namespace) -> Subject:
    """The model and the data that the command line asks for."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.shape:
        model, facts = shaped(options.shape, options.layers, device, chosen_dtype(options.dtype, device))
        ids = torch.randint(model.config.vocab_size, (options.tokens,), generator=torch.Generator().manual_seed(0))
        text = "random tokens"
    else:
        model, tokenizer, facts = real(options.model, options.dtype, device)
        document = "\n\n".join(topics[name] for name in sorted(topics))
        ids = torch.tensor(tokenizer(document, verbose=False)["input_ids"])[: options.tokens]
        text = "Python's own documentation (pydoc_data.topics)"
    sequences = ids[: len(ids) // options.length * options.length].reshape(-1, options.length)  # (E, S)
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part.clone()}
        for part in sequences.split(options.batch_size)
    ]
    layers = target_layers(model)
    facts |= {
        "device": device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model_bytes": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        "target_layers": len(layers),
        "data": text,
        "length": options.length,
        "batch_size": options.batch_size,
        "tokens": sequences.numel(),
    }
    return Subject(model, batches, facts)


def real(name: str, dtype: str, device: torch.device) -> tuple[Any, Any, dict[str, Any]]:
    """A model by alias, Hub id or folder, with its tokenizer."""
    from hubinit.models.base import load
    from hubinit.models.names import pin, resolve

    spec = pin(resolve(name).model_copy(update={"dtype": dtype}))
    loaded = load(spec, device)
    blocks = loaded.model.config.num_hidden_layers
    return (
        loaded.model,
        loaded.processor,
        {"name": name, "revision": spec.revision, "weights": "real", "blocks": blocks},
    )


def shaped(name: str, layers: int | None, device: torch.device, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A Llama of that shape with power-law weights, or a slice of it.

    Args:
        name: a key of SHAPES.
        layers: blocks of the slice; None: all. The vocabulary is cut in the same proportion, so that the whole model is
            the slice times `extrapolation`, embeddings and head included.
        device: where the weights are made.
        dtype: of the weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(SHAPES[name])
    blocks = int(shape["num_hidden_layers"])
    factor = 1.0
    if layers is not None and layers < blocks:
        factor = blocks / layers
        shape |= {"num_hidden_layers": layers, "vocab_size": round(shape["vocab_size"] / factor)}
    config = LlamaConfig(**shape)
    with torch.device(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(default)
    for layer_name, module in target_layers(model).items():
        seed = int.from_bytes(hashlib.sha256(layer_name.encode()).digest()[:6], "little")
        power_law_(module.weight.data, torch.Generator(device).manual_seed(seed))
    facts = {
        "name": name,
        "weights": f"random, singular values ∝ i^-{POWER}",
        "blocks": config.num_hidden_layers,
        "extrapolation": factor,
    }
    return model, facts


def power_law_(weight: Tensor, generator: torch.Generator, power: float = POWER, scale: float = 0.02) -> None:
    """Fills a weight (m, n) with `U diag(i^−p) Vᵀ`, U and V random orthogonal, and entries of root mean square `scale`.

    The random rotations are products of Hartley transforms and random signs, which cost an FFT instead of a QR.
    """
    m, n = weight.shape
    k = min(m, n)
    sigma = torch.arange(1, k + 1, dtype=torch.float32, device=weight.device) ** -power  # (k,)
    full = torch.zeros(m, n, device=weight.device)  # (m, n)
    full.diagonal().copy_(sigma * (scale * (m * n) ** 0.5 / sigma.norm()))
    for _ in range(2):  # two rounds mix every coordinate into every other
        full = _hartley(full * _signs(n, generator))
        full = _hartley(full.T * _signs(m, generator)).T
    weight.copy_(full)


def _hartley(rows: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform of every row."""
    spectrum = torch.fft.fft(rows, norm="ortho")
    return spectrum.real - spectrum.imag


def _signs(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (size,), generator=generator, device=generator.device) * 2.0 - 1.0


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 wherever it is fast, as for real models."""
    from hubinit.models.dtype import choose_dtype
    from hubinit.specs import ModelSpec

    dtype: torch.dtype = getattr(torch, choose_dtype(ModelSpec(id="shape", dtype=name), device))  # type: ignore[arg-type]
    return dtype


def block_modules(model: nn.Module, block: int) -> list[str]:
    """The target layers of one transformer block, by name."""
    return [name for name in target_layers(model) if f".{block}." in f".{name}."]
