"""A tiny tokenizer with a tiny model that fits it, and tiny data sets in the columns of the real ones."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SHARED = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "hub"
)  # the development data sets, where there are any

SENTENCES = (
    "Question: What is the color of the sky on a clear day?\nAnswer: blue",
    "Question: Which of these animals can fly?\nAnswer: the small bird",
    "The answer is 7. #### 7",
)


def tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE that loses nothing; its pad token is its EOS, as in many real ones. `bos` adds one, as Llama's does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        inner.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=512
    )


def language_model(seed: int = 0) -> LlamaForCausalLM:
    """A two-layer Llama for `tokenizer()`, in evaluation mode, with logits far enough apart to rank answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config).eval()


def save_model(folder: Path) -> Path:
    """The tiny model and its tokenizer as a folder that transformers loads."""
    language_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def arc(rows: int, *, first: int = 0) -> Dataset:
    """Questions in the columns of allenai/ai2_arc; row i has three to five choices."""
    return Dataset.from_list([_arc_row(index) for index in range(first, first + rows)])


def _arc_row(index: int) -> dict[str, Any]:
    count = 3 + index % 3
    letters = list("ABCDE")[:count]
    return {
        "id": f"q{index}",
        "question": f"What comes after number {index}?",
        "choices": {
            "text": [f"{index + step + 1} of {'abcde'[step] * (step + 1)}" for step in range(count)],
            "label": letters,
        },
        "answerKey": letters[index % count],
    }


def save_arc(folder: Path, *, train: int = 12, test: int = 6) -> Path:
    """A data set folder in the layout of allenai/ai2_arc, with configuration ARC-Easy."""
    splits = {"train": arc(train), "validation": arc(2, first=500), "test": arc(test, first=1000)}
    return save_dataset(folder, "ARC-Easy", splits)


def save_gsm8k(folder: Path, *, train: int = 6, test: int = 3) -> Path:
    """A data set folder in the layout of openai/gsm8k, with configuration main."""
    splits = {
        split: Dataset.from_list(
            [
                {"question": f"What is {i} plus 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}
                for i in numbers
            ]
        )
        for split, numbers in (("train", range(train)), ("test", range(100, 100 + test)))
    }
    return save_dataset(folder, "main", splits)


def save_dataset(folder: Path, config: str, splits: dict[str, Dataset]) -> Path:
    """Parquet files and the card that declares them.

    Local folders of one name share one entry in the cache of `datasets`: give each content a name of its own.
    """
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for name, split in splits.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        split.to_parquet(folder / config / f"{name}-00000-of-00001.parquet")
        lines += [f"  - split: {name}", f"    path: {config}/{name}-*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder
