"""Tiny random models of every architecture that hubinit promises, and random batches for them.

`build("llama")` gives a two-layer model in evaluation mode with weights large enough for informative gradients and
biases that are not zero; `batches("llama")` gives dicts of tensors for it. Everything is deterministic by seed.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import transformers as tf
from torch import Tensor, nn

VOCAB, HIDDEN, LAYERS, HEADS, MLP, LABELS, IMAGE = 128, 32, 2, 4, 48, 4, 16
Batch = dict[str, Tensor]

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_GQA: dict[str, Any] = {**_COMMON, "num_key_value_heads": 2}
_HEAD_DIM: dict[str, Any] = {**_GQA, "head_dim": HIDDEN // HEADS}
_IMAGE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": 4,
    "num_channels": 3,
    "initializer_range": 0.2,
    "num_labels": LABELS,
}
_MOE: dict[str, Any] = {**_GQA, "moe_intermediate_size": MLP, "num_experts_per_tok": 2}

_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_GQA, tie_word_embeddings=False)),
    "llama_tied": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_GQA, tie_word_embeddings=True)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_GQA)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_HEAD_DIM)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**_HEAD_DIM)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**_HEAD_DIM)),
    "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_HEAD_DIM)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_GQA)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**_GQA)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=VOCAB,
            n_positions=64,
            n_embd=HIDDEN,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=MLP,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_COMMON)),
    "opt": lambda: tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            ffn_dim=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=64,
            word_embed_proj_dim=HIDDEN,
            init_std=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**_GQA, num_local_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": lambda: tf.Qwen2MoeForCausalLM(
        tf.Qwen2MoeConfig(**_MOE, num_experts=4, shared_expert_intermediate_size=MLP)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**_MOE, num_experts=4, head_dim=HIDDEN // HEADS)),
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**_COMMON, num_labels=LABELS)),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(
            vocab_size=VOCAB,
            d_model=HIDDEN,
            d_kv=HIDDEN // HEADS,
            d_ff=MLP,
            num_layers=LAYERS,
            num_heads=HEADS,
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
    ),
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**_IMAGE)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(
        tf.Dinov2Config(**{k: v for k, v in _IMAGE.items() if k != "intermediate_size"}, mlp_ratio=2)
    ),
    "clip": lambda: tf.CLIPForImageClassification(
        tf.CLIPConfig(
            vision_config={**_IMAGE, "projection_dim": HIDDEN},
            text_config={**_COMMON, "projection_dim": HIDDEN},
            num_labels=LABELS,
        )
    ),
}

CAUSAL = (
    "llama", "llama_tied", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mistral", "phi3", "gpt2", "gpt_neox", "opt",
)  # fmt: skip
MOE = ("mixtral", "qwen2_moe", "qwen3_moe")
VISION = ("vit", "dinov2", "clip")
CLASSIFIERS = ("bert", *VISION)
SEQ2SEQ = ("t5",)
ALL = (*CAUSAL, *CLASSIFIERS, *SEQ2SEQ)  # what every method must initialise
EVERYTHING = (*ALL, *MOE)


def build(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The tiny model `name` in evaluation mode, the same for the same seed; biases are random, not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[name]()
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    if name in MOE:
        model.set_experts_implementation("eager")  # the fast one has no float64
    return model.to(dtype).eval()


def batches(
    name: str,
    *,
    examples: int = 6,
    batch_size: int = 2,
    length: int = 12,
    padding: Literal["left", "right"] = "right",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[Batch]:
    """Random examples for `build(name)` in padded batches.

    The examples depend on the seed only: another `batch_size` or `padding` holds the same ones. The first third of a
    sequence is masked in `labels` (−100), as a prompt. Padding is filled with id 0, which also occurs inside sequences.

    Args:
        name: a key of `EVERYTHING`.
        examples: how many examples in all.
        batch_size: examples per batch; the last one may be smaller.
        length: longest sequence; lengths vary from `length // 2` up.
        padding: side of the padding.
        seed: of the examples.
        dtype: of `pixel_values`.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [_example(name, length, generator, dtype) for _ in range(examples)]
    groups = [rows[start : start + batch_size] for start in range(0, examples, batch_size)]
    return [_collate(name, group, padding) for group in groups]


def _example(name: str, length: int, generator: torch.Generator, dtype: torch.dtype) -> Batch:
    label = torch.randint(LABELS, (), generator=generator)
    if name in VISION:
        return {"pixel_values": torch.randn(3, IMAGE, IMAGE, generator=generator).to(dtype), "labels": label}
    size = int(torch.randint(length // 2, length + 1, (), generator=generator))
    ids = torch.randint(VOCAB, (size,), generator=generator)
    row = {"input_ids": ids, "attention_mask": torch.ones(size, dtype=torch.long)}
    if name in CLASSIFIERS:
        return {**row, "labels": label}
    if name in SEQ2SEQ:
        target = int(torch.randint(length // 3, length // 2 + 1, (), generator=generator))
        return {**row, "labels": torch.randint(VOCAB, (target,), generator=generator)}
    labels = ids.clone()
    labels[: size // 3] = -100
    return {**row, "labels": labels}


def _collate(name: str, rows: list[Batch], padding: str) -> Batch:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    batch = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key in fill and values[0].ndim == 1:
            # A decoder starts at its first position: only the input side of an encoder-decoder can be padded on the left.
            side = "right" if name in SEQ2SEQ and key == "labels" else padding
            longest = max(len(value) for value in values)
            values = [_pad(value, longest, fill[key], side) for value in values]
        batch[key] = torch.stack(values)
    return batch


def _pad(value: Tensor, longest: int, fill: int, padding: str) -> Tensor:
    missing = torch.full((longest - len(value),), fill, dtype=value.dtype)
    return torch.cat([missing, value] if padding == "left" else [value, missing])
