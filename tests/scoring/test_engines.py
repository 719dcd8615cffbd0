"""vLLM as an engine, against a stand-in for the package: which of its parameters get which values. Not run on a GPU."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hubinit.errors import HubinitError
from hubinit.records import Provenance
from hubinit.scoring import engines
from hubinit.scoring.engines import VllmModel, load_vllm, lora_rank, with_vllm
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import generate
from hubinit.scoring.lm_eval import decoding_of
from hubinit.scoring.target import load_target
from hubinit.specs import EvalSpec, ModelSpec
from hubinit.tasks.spec import Decoding
from tests import definitions
from tests.scoring import fake_vllm
from tests.scoring.fake_vllm import CALLS, FakeLLM
from tests.texts import save_model, tokenizer


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_vllm.use(monkeypatch)
    yield
    engines.load_base.cache_clear()


def adapter(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 16, "bias": "none", "init_lora_weights": True, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_base_with_an_adapter(vllm: None, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    spec = ModelSpec(id=str(base), dtype="bfloat16")
    first = load_vllm(spec, adapter(tmp_path / "one"))
    assert CALLS["llm"] == {
        "model": str(base),
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "seed": 0,
        "gpu_memory_utilization": 0.45,  # nine tenths of the half that is free
        "enable_lora": True,
        "max_lora_rank": 16,
    }
    second = load_vllm(spec, adapter(tmp_path / "two", r=12))
    assert CALLS["loads"] == 1
    assert first.adapter.number != second.adapter.number
    assert (second.adapter.path, second.room) == (str(tmp_path / "two"), 200)
    load_vllm(spec)
    assert (CALLS["llm"]["enable_lora"], "max_lora_rank" in CALLS["llm"]) == (False, False)


def test_a_decoding_as_vllm_takes_it(vllm: None, tmp_path: Path) -> None:
    model = load_vllm(ModelSpec(id=str(save_model(tmp_path / "base"))), adapter(tmp_path / "one"))
    decoding = Decoding(max_new_tokens=9, temperature=0.7, top_p=0.9, samples=3, stop=("\n", "Q:"))
    prompts = ["The answer is", "7"]
    outputs = generate(model, tokenizer(), prompts, decoding, batch_size=4)
    ids = [tokenizer()(text)["input_ids"] for text in prompts]
    assert [prompt["prompt_token_ids"] for prompt in CALLS["prompts"]] == ids
    assert outputs == [[f"{len(one)} tokens"] * 3 for one in ids]
    assert vars(CALLS["generate"]["sampling_params"]) == {
        "n": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 9,
        "stop": ["\n", "Q:"],
        "seed": 0,
        "skip_special_tokens": True,
    }
    assert CALLS["generate"]["lora_request"] is model.adapter


@pytest.mark.parametrize("decoding", [Decoding(8, beams=4), Decoding(8, no_repeat_ngram=2), Decoding(199)])
def test_what_vllm_does_not_do_is_one_sentence(vllm: None, decoding: Decoding) -> None:
    with pytest.raises(HubinitError, match=r"beams as transformers does|do not fit into the context of 200"):
        VllmModel(FakeLLM(), 200).generate([[1, 2]], decoding)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"peft_type": "VERA"}, "type VERA"),
        ({"bias": "all"}, "a trained bias"),
        ({"init_lora_weights": "pissa"}, "a base that is rewritten"),
        ({"r": 600}, "rank 600, and vLLM takes 512 at most"),
        ({"r": "x"}, "is not a LoRA adapter"),
    ],
)
def test_only_plain_adapters(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(HubinitError, match=reason):
        lora_rank(adapter(tmp_path / "adapter", **changes))


def test_the_rank_is_the_highest_of_any_layer(tmp_path: Path) -> None:
    assert lora_rank(adapter(tmp_path / "plain", r=4)) == 8
    assert lora_rank(adapter(tmp_path / "uneven", rank_pattern={"q_proj": 40})) == 64
    (adapter(tmp_path / "anchored") / "anchor").mkdir()
    with pytest.raises(HubinitError, match="an anchor"):
        lora_rank(tmp_path / "anchored")


def test_lm_evals_free_text_tasks_go_through_it(vllm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "definitions").mkdir()
    definitions.use(tmp_path / "definitions", monkeypatch)
    target = adapter(tmp_path / "one", base_model_name_or_path=str(save_model(tmp_path / "base")))
    model, tokens = load_target(str(target), ["lm-eval:free"], engine="vllm")
    seen: list[tuple[int, int]] = []
    note = lambda done, total: seen.append((done, total))  # noqa: E731
    scored = evaluate_one(model, tokens, EvalSpec(task="lm-eval:free", shots=2), batch_size=2, on_progress=note)
    assert [item.outputs for item in scored.items] == [
        (f"{len(prompt['prompt_token_ids'])} tokens",) for prompt in CALLS["prompts"]
    ]
    assert CALLS["generate"]["sampling_params"].max_tokens == 4
    assert seen == [(3, 3)]
    with pytest.raises(HubinitError, match="is not scored by free text alone"):
        evaluate_one(model, tokens, EvalSpec(task="lm-eval:small"), batch_size=2)


def test_lm_evals_settings_as_a_decoding() -> None:
    assert decoding_of({"until": ["\n"], "do_sample": False, "temperature": 0.0}) == Decoding(256, stop=("\n",))
    assert decoding_of(
        {"until": "Q:", "max_gen_toks": 5, "do_sample": True, "temperature": 0.5, "top_p": 0.8}
    ) == Decoding(5, temperature=0.5, top_p=0.8, stop=("Q:",))
    with pytest.raises(HubinitError, match="decodes with typical_p"):
        decoding_of({"until": [], "typical_p": 0.5})


def test_scores_say_that_vllm_wrote_the_answers(vllm: None) -> None:
    made = Provenance(versions={"python": "3"}, hardware={}, command="", created="")
    assert with_vllm(made).versions == {"python": "3", "vllm": "0.99"}


def test_without_vllm_or_without_a_gpu_it_is_one_sentence(vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HubinitError, match="vLLM needs a GPU"):
        load_target("somewhere/model", ["gsm8k"], engine="vllm")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HubinitError, match="`pip install vllm`"):
        load_vllm(ModelSpec(id="somewhere/model"))
