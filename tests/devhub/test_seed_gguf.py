"""A GGUF file becomes the checkpoint that transformers' own GGUF loader makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubinit.devhub.seed.gguf_model import _write_tokenizer, convert_gguf, transformers_name, unpermute
from hubinit.errors import HubinitError

HIDDEN, HEADS, KV_HEADS, MLP, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's row order, row by row: output row 2i of a head is row i, output row 2i + 1 is row i + d/2."""
    size = len(weight) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[order]


@given(heads=st.integers(1, 4), pairs=st.integers(1, 4), columns=st.integers(1, 3))
def test_unpermute_undoes_llama_cpps_row_order(heads, pairs, columns):
    weight = np.arange(heads * 2 * pairs * columns, dtype=np.float64).reshape(-1, columns)
    assert np.array_equal(unpermute(permute(weight, heads), heads), weight)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> Path:
    """A tiny quantised Llama with a byte-level BPE tokenizer, written with the reference library."""
    import gguf
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, "he", "llo", "ll", "hello", "Ġhello"]
    merges = ["h e", "l l", "ll o", "he llo", "Ġ hello"]
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    random = np.random.default_rng(0)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
    }
    shapes |= {"ffn_gate": (MLP, HIDDEN), "ffn_up": (MLP, HIDDEN), "ffn_down": (HIDDEN, MLP)}
    matrices = {f"blk.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in shapes.items()}
    for name, shape in {"token_embd.weight": (len(tokens), HIDDEN), **matrices}.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if name.startswith("token") else gguf.GGMLQuantizationType.Q4_1
        values = random.normal(scale=0.2, size=shape).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    norms = [f"blk.{n}.{name}.weight" for n in range(LAYERS) for name in ("attn_norm", "ffn_norm")]
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor(name, random.normal(loc=1, scale=0.1, size=HIDDEN).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def converted(gguf_file, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "model"
    convert_gguf(gguf_file, target)
    return target


def test_weights_equal_transformers_own_conversion(gguf_file, converted):
    import torch
    from transformers import AutoModelForCausalLM

    ours = AutoModelForCausalLM.from_pretrained(converted)
    theirs = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    expected = {name: value.to(torch.bfloat16) for name, value in theirs.state_dict().items()}
    found = ours.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert ours.dtype == torch.bfloat16
    assert ours.lm_head.weight.data_ptr() == ours.model.embed_tokens.weight.data_ptr()
    for field in ("rms_norm_eps", "rope_parameters", "max_position_embeddings", "num_key_value_heads", "eos_token_id"):
        assert getattr(ours.config, field) == pytest.approx(getattr(theirs.config, field)), field
    assert (ours.generation_config.eos_token_id, ours.generation_config.pad_token_id) == (2, 2)


def test_the_tokenizer_equals_transformers_own_conversion(gguf_file, converted):
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(converted)
    theirs = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    for text in ("hello hello", "  1 23\n\nhé 日本", "<|im_start|>user\nhello<|im_end|>", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    assert (ours.bos_token, ours.eos_token, ours.pad_token, ours.unk_token) == (*SPECIAL[1:], SPECIAL[2], SPECIAL[0])
    assert ours.model_max_length == 128
    assert json.loads((converted / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize(("pre", "expected"), [("smollm", ["1", "2", "Ġ", "3"]), ("default", ["12", "Ġ3"])])
def test_the_smollm_pre_tokenizer_splits_every_digit_off(tmp_path, pre, expected):
    from transformers import AutoTokenizer

    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": ["1", "2", "3", "Ġ", "12", "Ġ3"],
        "tokenizer.ggml.merges": ["1 2", "Ġ 3"],
        "tokenizer.ggml.token_type": [1] * 6,
    }
    _write_tokenizer(fields, tmp_path, max_length=64)
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize("12 3") == expected


def test_a_file_that_is_not_gguf_is_one_sentence(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model" * 10)
    with pytest.raises(HubinitError, match=r"x.gguf is not a readable GGUF file"):
        convert_gguf(path, tmp_path / "out")


def test_an_unknown_tensor_is_named():
    with pytest.raises(HubinitError, match=r"blk.0.attn_q_norm.weight"):
        transformers_name("blk.0.attn_q_norm.weight")
