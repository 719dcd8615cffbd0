"""What users really run: transformers, peft and datasets against the embedded Hub."""

import pytest

torch = pytest.importorskip("torch")

from datasets import Dataset, DatasetDict, load_dataset  # noqa: E402
from huggingface_hub import HfApi, ModelCard  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: E402

bob = HfApi(token="hf_bob")
IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def base(hub):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model = LlamaForCausalLM(config).eval()
    model.push_to_hub("alice/tiny-llama")
    return model


def test_transformers_round_trip(api, base):
    loaded = AutoModelForCausalLM.from_pretrained("alice/tiny-llama").eval()
    torch.testing.assert_close(loaded(IDS).logits, base(IDS).logits)
    info = api.model_info("alice/tiny-llama")
    assert info.pipeline_tag == "text-generation"
    assert info.library_name == "transformers"
    assert info.safetensors.total == sum(parameter.numel() for parameter in base.parameters())
    assert {"safetensors", "llama"} <= set(info.tags)


def test_transformers_tokenizer(hub):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").push_to_hub("alice/tiny-tokenizer")
    assert AutoTokenizer.from_pretrained("alice/tiny-tokenizer").convert_tokens_to_ids(["b", "a"]) == [1, 0]


def test_peft_round_trip(api, base, tmp_path):
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained("alice/tiny-llama"),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    ).eval()
    adapted.save_pretrained(tmp_path)
    api.create_repo("alice/tiny-adapter")
    api.upload_folder(repo_id="alice/tiny-adapter", folder_path=tmp_path, ignore_patterns="README.md")
    fresh = AutoModelForCausalLM.from_pretrained("alice/tiny-llama")
    loaded = PeftModel.from_pretrained(fresh, "alice/tiny-adapter").eval()
    torch.testing.assert_close(loaded(IDS).logits, adapted(IDS).logits)
    assert (loaded(IDS).logits - base(IDS).logits).abs().max() > 1e-3
    found = [model.id for model in api.list_models(filter=["base_model:adapter:alice/tiny-llama", "peft"])]
    assert "alice/tiny-adapter" in found


def test_datasets_round_trip(api):
    splits = DatasetDict(
        train=Dataset.from_dict({"text": [f"row {n}" for n in range(100)], "label": list(range(100))}),
        test=Dataset.from_dict({"text": ["last"], "label": [7]}),
    )
    splits.push_to_hub("alice/rows")
    loaded = load_dataset("alice/rows")
    assert loaded["train"]["label"] == list(range(100))
    assert loaded["test"][0] == {"text": "last", "label": 7}
    Dataset.from_dict({"text": ["new"], "label": [1]}).push_to_hub("alice/rows", config_name="other", split="train")
    assert load_dataset("alice/rows", "other", split="train")["text"] == ["new"]
    assert len(load_dataset("alice/rows", split="train")) == 100
    head = api.dataset_info("alice/rows").sha
    assert len(load_dataset("alice/rows", split="train", revision=head)) == 100


def test_datasets_without_metadata(api):
    api.create_repo("alice/lines", repo_type="dataset")
    lines = b'{"q": "1+1", "a": "2"}\n{"q": "2+2", "a": "4"}\n'
    api.upload_file(path_or_fileobj=lines, path_in_repo="train.jsonl", repo_id="alice/lines", repo_type="dataset")
    assert load_dataset("alice/lines", split="train")["a"] == ["2", "4"]
    streamed = list(load_dataset("alice/lines", split="train", streaming=True))
    assert [row["q"] for row in streamed] == ["1+1", "2+2"]
    import pandas

    frame = pandas.read_json("hf://datasets/alice/lines/train.jsonl", lines=True)
    assert list(frame["a"]) == [2, 4]


def test_unknown_names_fail_cleanly(hub):
    with pytest.raises(OSError, match="not a valid model identifier"):
        AutoModelForCausalLM.from_pretrained("alice/no-such-model")
    with pytest.raises(OSError, match="not a valid model identifier"):
        AutoModelForCausalLM.from_pretrained("no-namespace")
    with pytest.raises(Exception, match="doesn't exist"):
        load_dataset("alice/no-such-dataset")


def test_cards(api):
    api.create_repo("alice/carded")
    ModelCard("---\nlicense: mit\ntags: [a]\n---\n# Title\n").push_to_hub("alice/carded")
    card = ModelCard.load("alice/carded")
    assert (card.data.license, card.data.tags) == ("mit", ["a"])
