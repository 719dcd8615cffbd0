"""Turn a quantised Llama GGUF file into a transformers checkpoint in bfloat16.

Dequantising does not restore what quantising lost: the result holds exactly the values that the GGUF file stands for, rounded
to bfloat16. Tensor by tensor, so the peak is the bfloat16 model plus one float32 matrix.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hubinit.errors import HubinitError

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # GGUF's token type of special tokens
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_gguf(source: Path, target: Path) -> None:
    """Write config, weights, tokenizer and generation config of a Llama GGUF file into a folder.

    Args:
        source: The `.gguf` file.
        target: A folder; created when missing.

    Raises:
        HubinitError: The file is not GGUF, or its architecture is not `llama`.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise HubinitError(f"{source.name} is not a readable GGUF file: {error}.") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama":
        raise HubinitError(
            f"{source.name} holds a {fields.get('general.architecture')} model; only llama is converted."
        )
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)  # (m, n) or (n,), float32
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = unpermute(values, heads[part])
        weights[transformers_name(tensor.name)] = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16)
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    _write_configs(fields, target, tied="lm_head.weight" not in weights)
    _write_tokenizer(fields, target, max_length=int(fields["llama.context_length"]))


def transformers_name(name: str) -> str:
    """The transformers name of a Llama tensor in a GGUF file.

    >>> transformers_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'

    Raises:
        HubinitError: The tensor has no counterpart in a Llama checkpoint.
    """
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _TOP_NAMES:
        return f"{_TOP_NAMES[parts[0]]}.{parts[1]}"
    raise HubinitError(f"The GGUF tensor {name} has no place in a Llama checkpoint.")


def unpermute(weight: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """Undo the row order that llama.cpp gives query and key projections for its interleaved rotary embedding.

    Within each head llama.cpp interleaves the two halves that transformers rotates against each other.

    Args:
        weight: (heads * d, n).
        heads: Number of heads in this projection (key heads for keys).

    Returns:
        (heads * d, n), rows in transformers' order.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)  # (heads, d/2, 2, n)
    result: np.ndarray[Any, Any] = pairs.swapaxes(1, 2).reshape(rows, columns)
    return result


def _write_configs(fields: dict[str, Any], target: Path, *, tied: bool) -> None:
    from transformers import GenerationConfig, LlamaConfig

    special = {
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        max_position_embeddings=fields["llama.context_length"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_hidden_layers=fields["llama.block_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        # stored as float32 (9.9999997e-06): the shortest decimal with that value is the one that was meant
        rms_norm_eps=float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        rope_parameters={"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        tie_word_embeddings=tied,
        vocab_size=fields["llama.vocab_size"],
        **special,
    )
    config.save_pretrained(target)
    GenerationConfig(**special).save_pretrained(target)


def _write_tokenizer(fields: dict[str, Any], target: Path, *, max_length: int) -> None:
    """Write the byte-level BPE tokenizer of the GGUF metadata.

    It is the one that transformers makes of the file, but for one thing that transformers overlooks: the pre-tokenizer
    `smollm` splits off every digit before the byte-level step, as the model was trained.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if fields["tokenizer.ggml.model"] != "gpt2":
        raise HubinitError(
            f"The GGUF file has a {fields['tokenizer.ggml.model']} tokenizer; only gpt2 (BPE) is converted."
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if fields.get("tokenizer.ggml.pre") == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token, kind in kinds if kind == _CONTROL])
    special = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        chat_template=fields.get("tokenizer.chat_template"),
        **{
            name: tokens[fields[key]]
            for name, kind in special.items()
            if (key := f"tokenizer.ggml.{kind}_token_id") in fields
        },
    ).save_pretrained(target)
    path = target / "tokenizer_config.json"
    # The class name that transformers 5 writes does not exist in 4.
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
