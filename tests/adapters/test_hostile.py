"""An adapter of someone else loads with the right logits or is refused in one sentence; the base is as it was."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

import hubinit
from hubinit.adapters import patterns
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.finish import finish_files
from hubinit.adapters.saving import head_size
from hubinit.errors import HubinitError
from hubinit.scoring.target import base_of
from tests import cases
from tests.adapters.small import RESIDUAL, UNEVEN, assert_untouched, deviation, logits, snapshot, train

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"
ENDLESS = r"(.*.*.*.*.*.*.*.*)*x"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """Folders with a trained adapter (`lora`) and starts of other methods, each made once."""
    folder, known = tmp_path_factory.mktemp("made"), {}

    def make(method: Any) -> Path:
        name = getattr(method, "name", method)
        if name not in known:
            model = hubinit.initialize(cases.build("llama"), method, rank=4)
            if method == "lora":
                train(model)
            hubinit.save_initialized(model, folder / name) if method != "lora" else hubinit.export(model, folder / name)
            known[name] = folder / name
        return known[name]

    return make


@pytest.fixture
def adapter(made: Callable[[Any], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("lora"), tmp_path / "adapter"))


@pytest.fixture
def start(made: Callable[[Any], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made(RESIDUAL), tmp_path / "start"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patterns, "SECONDS", 1.0, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def configure(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(folder: Path, function: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file({name: t.contiguous() for name, t in function(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)


def refused(folder: Path, match: str, name: str = "llama", trainable: bool = True) -> None:
    base = cases.build(name)
    next(base.parameters()).requires_grad_(False)
    before, gradients = snapshot(base), [p.requires_grad for p in base.parameters()]
    with pytest.raises(HubinitError, match=match) as caught:
        hubinit.load_initialized(base, folder, trainable=trainable)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not adapted_layers(base)
    assert_untouched(base, before)
    assert [p.requires_grad for p in base.parameters()] == gradients


def loaded(folder: Path, name: str = "llama", **kwargs: Any) -> torch.Tensor:
    return logits(hubinit.load_initialized(cases.build(name), folder, **kwargs), cases.batches(name)[0])


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "unrelated": (lambda t: {"some.weight": torch.zeros(2, 2)}, "28 tensors are missing, such as base_model"),
    "half": (lambda t: dict(list(t.items())[:14]), "14 tensors are missing"),
    "one missing": (lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.weight"}, "a tensor is missing"),
    "other names": (lambda t: {k.replace("self_attn", "attention"): v for k, v in t.items()}, "tensors are missing"),
    "one more": (lambda t: t | {"base_model.model.x.lora_A.weight": torch.zeros(4, 32)}, "of no use.*model.x"),
    "of the base": (lambda t: t | {"base_model.model.model.norm.weight": torch.zeros(32)}, "would overwrite"),
    "of a target": (lambda t: t | {f"{Q}.base_layer.weight": torch.zeros(32, 32)}, "would overwrite"),
    "other rank": (lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(5, 32)}, "is 5×32, not 4×32"),
    "transposed": (lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(32, 4)}, "is 32×4, not 4×32"),
    "a number": (lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(())}, "is a number, not 4×32"),
    "integers": (lambda t: {k: v.to(torch.int8) for k, v in t.items()}, "holds I8 numbers"),
    "NaN": (lambda t: t | {f"{Q}.lora_A.weight": torch.full((4, 32), float("nan"))}, "NaN or infinity"),
    "infinity": (lambda t: t | {f"{Q}.lora_B.weight": torch.full((32, 4), float("inf"))}, "NaN or infinity"),
    "nothing": (lambda t: {}, "holds no tensors"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_refused(case: str, adapter: Path) -> None:
    function, match = TENSORS[case]
    change(adapter, function)
    refused(adapter, match)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"], ids=repr)
def test_a_damaged_file_is_refused(content: bytes, adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(content)
    refused(adapter, f"{WEIGHTS} cannot be read")
    with pytest.raises(HubinitError, match="cannot be read"):
        head_size(adapter / WEIGHTS)


def test_only_safetensors_are_read(adapter: Path) -> None:
    """PEFT would take a pickle beside them, or ask a Hub."""
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    refused(adapter, f"{WEIGHTS} is missing")


VALUES: list[tuple[dict[str, Any], str]] = [
    ({"r": 3_000_000}, "4×32, not 3000000×32"),
    ({"r": 10**30}, "does not fit"),
    ({"r": 5}, "is 4×.* not 5×"),
    ({"r": 0}, "r: "),
    ({"r": "4"}, "r: "),
    ({"r": None}, "r: "),
    ({"r": 4.5}, "r: "),
    ({"rank_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 3_000_000}}, "4×32, not 3000000×32"),
    ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern.q_proj"),
    ({"rank_pattern": [1]}, "rank_pattern: "),
    ({"rank_pattern": {f"m{i}": 4 for i in range(5000)}}, "rank_pattern has 5000 entries"),
    ({"rank_pattern": {ENDLESS: 4}}, "takes more than 1 seconds"),
    ({"alpha_pattern": {ENDLESS: 4}}, "takes more than 1 seconds"),
    ({"alpha_pattern": {"(": 4}}, "not a regular expression"),
    ({"alpha_pattern": {"q_proj": "much"}}, "alpha_pattern.q_proj"),
    ({"alpha_pattern": 5}, "alpha_pattern: "),
    ({"lora_alpha": None}, "lora_alpha: "),
    ({"lora_alpha": [4]}, "lora_alpha: "),
    ({"lora_dropout": 2}, "lora_dropout: "),
    ({"target_modules": ENDLESS}, "takes more than 1 seconds"),
    ({"target_modules": r"([\w.]+[\w.]+)+!"}, "takes more than 1 seconds"),
    ({"target_modules": "("}, "not a regular expression"),
    ({"target_modules": {"q_proj": 1}}, "target_modules"),
    ({"target_modules": [1]}, "target_modules"),
    ({"target_modules": None}, "does not fit"),
    ({"target_modules": []}, "does not fit"),
    ({"target_modules": ["nothing"]}, "does not fit.*PEFT says"),
    ({"target_modules": ["q_proj"]}, "24 tensors are of no use"),
    ({"target_modules": [f"m{i}" for i in range(5000)]}, "target_modules has 5000 entries"),
    ({"exclude_modules": ENDLESS}, "takes more than 1 seconds"),
    ({"exclude_modules": ["q_proj"]}, "4 tensors are of no use"),
    ({"exclude_modules": 5}, "exclude_modules"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' stands for a base with other weights"),
    ({"init_lora_weights": "pissa_niter_4"}, "stands for a base"),
    ({"init_lora_weights": "olora"}, "stands for a base"),
    ({"init_lora_weights": "lora_ga"}, "stands for a base"),
    ({"init_lora_weights": 7}, "init_lora_weights"),
    ({"use_dora": True}, "14 tensors are missing"),
    ({"lora_bias": True}, "14 tensors are missing"),
    ({"kasa_config": {}}, "14 tensors are missing"),
    ({"kasa_config": 5}, "KasaConfig"),
    ({"bias": "some"}, "bias: "),
    ({"modules_to_save": ["lm_head"]}, "a tensor is missing|asks for more than the file holds"),
    ({"modules_to_save": ["model"]}, "asks for more than the file holds"),
    ({"modules_to_save": "lm_head"}, "modules_to_save: "),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "megatron_config"),
    ({"arrow_config": {}}, "arrow_config"),
    ({"peft_type": "XLORA"}, "hubinit loads no XLORA"),
    ({"peft_type": "NEWEST"}, "hubinit loads no NEWEST"),
    ({"peft_type": "VERA"}, "cannot be used|does not fit|cannot load"),
    ({"peft_type": ["LORA"]}, "peft_type: "),
    ({"peft_type": None}, "names no peft_type"),
    ({"task_type": "TALK"}, "Invalid task type"),
    ({"task_type": 1}, "task_type"),
    ({"base_model_name_or_path": 5}, "base_model_name_or_path"),
    ({"revision": []}, "revision"),
    ({"auto_mapping": "LlamaForCausalLM"}, "auto_mapping"),
    ({"layers_to_transform": "all"}, "layers_to_transform"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), VALUES, ids=lambda value: str(value)[:50])
def test_configurations_that_do_not_fit_are_refused(changes: dict[str, Any], match: str, adapter: Path) -> None:
    configure(adapter, **changes)
    refused(adapter, match)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"5", b"{", b"\xff\xfe", b'{"peft_type": "LORA", "r": 4, "r": 8}', b'{"peft_type": "LORA", "r": NaN}',
        b'{"lora_alpha": Infinity}', b"[" * 100_000, b'{"a":' * 100_000, b" " * 5_000_000 + b"{}",
    ],
    ids=lambda content: str(content[:30]),
)  # fmt: skip
def test_what_is_not_a_configuration_is_refused(content: bytes, adapter: Path) -> None:
    (adapter / CONFIG).write_bytes(content)
    refused(adapter, "cannot be read")
    with pytest.raises(HubinitError, match="cannot be read"):
        base_of(str(adapter))
    with pytest.raises(HubinitError, match="cannot be read"):
        finish_files(adapter, adapter, adapter.parent / "out")


@pytest.mark.parametrize("name", [5, None])
def test_eval_needs_a_base_by_name(name: Any, adapter: Path) -> None:
    configure(adapter, base_model_name_or_path=name)
    with pytest.raises(HubinitError, match="base_model_name_or_path"):
        base_of(str(adapter))


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"result": 5}', "\ud800"], ids=lambda text: repr(text[:12]))
def test_a_hubinit_json_of_no_use_does_not_stop_the_loading(content: str, adapter: Path) -> None:
    expected = loaded(adapter)
    (adapter / "hubinit.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert torch.equal(loaded(adapter), expected)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_link_out_of_the_folder_is_refused(name: str, adapter: Path) -> None:
    (adapter / name).rename(adapter.parent / "elsewhere")
    (adapter / name).symlink_to(adapter.parent / "elsewhere")
    refused(adapter, f"{name} is a link that leads out of its folder")


def test_the_links_of_the_hubs_cache_are_none_of_that(start: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "models--org--name" / "snapshots" / "abc"
    for index, file in enumerate(path for path in start.rglob("*") if path.is_file()):
        blob, link = snapshots.parent.parent / "blobs" / str(index), snapshots / file.relative_to(start)
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)
    (tmp_path / "here").symlink_to(snapshots)
    assert torch.equal(loaded(tmp_path / "here"), loaded(start))


ANCHORS: dict[str, tuple[Callable[[Path], None], str]] = {
    "half": (lambda anchor: change(anchor, lambda t: dict(list(t.items())[:14])), "14 tensors are missing"),
    "no B": (lambda anchor: change(anchor, lambda t: {k: t[k] for k in t if "lora_A" in k}), "14 tensors are missing"),
    "unrelated": (lambda anchor: change(anchor, lambda t: {"x": torch.zeros(1)}), "28 tensors are missing"),
    "no weights": (lambda anchor: (anchor / WEIGHTS).unlink(), "not a whole adapter"),
    "damaged": (lambda anchor: (anchor / WEIGHTS).write_bytes(b"x") and None, "cannot be read"),
    "rank": (lambda anchor: configure(anchor, r=3_000_000), "not 3000000×"),
    "pattern": (lambda anchor: configure(anchor, rank_pattern={ENDLESS: 4}), "takes more than"),
    "dora": (lambda anchor: configure(anchor, use_dora=True), "14 tensors are missing"),
    "type": (lambda anchor: configure(anchor, peft_type="VERA"), "anchor"),
    "list": (lambda anchor: (anchor / CONFIG).write_text("[]") and None, "cannot be read|lost its anchor"),
    "NaN": (lambda anchor: change(anchor, lambda t: {k: v / 0 for k, v in t.items()}), "NaN or infinity"),
}


@pytest.mark.parametrize("case", ANCHORS)
def test_anchors_that_do_not_fit_are_refused(case: str, start: Path, tmp_path: Path) -> None:
    for path in start.rglob(CONFIG):  # as of version 0.1: the marks would tell some of them
        configure(path.parent, alpha_pattern={})
    function, match = ANCHORS[case]
    function(start / "anchor")
    refused(start, match)
    if case not in ("type", "list", "dora"):  # finish takes nothing from it but factors and scaling
        with pytest.raises(HubinitError):
            finish_files(start, start, tmp_path / "out")


def test_an_anchor_beside_another_type_is_refused(start: Path, made: Callable[[Any], Path], tmp_path: Path) -> None:
    vera = Path(shutil.copytree(made("peft:vera"), tmp_path / "vera"))
    shutil.copytree(start / "anchor", vera / "anchor")
    refused(vera, "must both be LoRA")


def test_a_rewritten_base_is_loaded_right_where_the_anchor_says_how(start: Path) -> None:
    expected = loaded(start)
    for path in start.rglob(CONFIG):
        configure(path.parent, init_lora_weights="pissa")
    assert torch.equal(loaded(start), expected)


@pytest.mark.parametrize(
    "changes",
    [{"r": 3_000_000}, {"r": 5}, {"projection_prng_key": "x"}, {"target_modules": ENDLESS}, {"save_projection": False}],
    ids=str,
)
def test_other_types_are_held_against_their_base_too(changes: Any, made: Callable[[Any], Path], tmp_path: Path) -> None:
    vera = Path(shutil.copytree(made("peft:vera"), tmp_path / "vera"))
    configure(vera, **changes)
    refused(vera, "does not fit|cannot be used|cannot load")


def test_other_types_need_all_of_their_tensors(made: Callable[[Any], Path], tmp_path: Path) -> None:
    vera = Path(shutil.copytree(made("peft:vera"), tmp_path / "vera"))
    change(vera, lambda t: {name: tensor for name, tensor in t.items() if name != f"{Q}.vera_lambda_b"})
    refused(vera, "a tensor is missing")


def test_prompts_come_from_the_file_and_nothing_else_is_fetched(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model, batch = get_peft_model(cases.build("llama"), config), cases.batches("llama")[0]
    model.save_pretrained(tmp_path)
    expected = logits(model, batch)
    configure(
        tmp_path, prompt_tuning_init="TEXT", prompt_tuning_init_text="x", tokenizer_name_or_path=str(tmp_path / "none")
    )
    assert torch.equal(loaded(tmp_path, trainable=False), expected)
    configure(tmp_path, num_virtual_tokens=3_000_000)
    refused(tmp_path, "num_virtual_tokens is 3e\\+06", trainable=False)


PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": ["q_proj", "v_proj", "query_key_value"]}),
    ("llama", {"target_modules": r".*\.layers\.(0|1)\..*(q|k)_proj"}),
    ("llama", {"target_modules": r"^(?!.*mlp).*_proj"}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"}),
    ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    ("llama", {"target_modules": ["q_proj"], "init_lora_weights": False}),
    ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    ("llama", {"target_modules": ["q_proj"], "use_dora": True, "use_rslora": True}),
    ("llama", {"target_modules": ["q_proj"], "bias": "all"}),
    ("llama", {"target_modules": ["q_proj"], "lora_bias": True}),
    ("llama", {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"layers.0.*q_proj": 2}, "alpha_pattern": {"k_proj": 3}}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    ("llama_tied", {"target_modules": ["q_proj", "lm_head"]}),
    ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    ("bert", {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    ("vit", {"target_modules": ["q_proj", "query"], "modules_to_save": ["classifier"]}),
    ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), PLAIN, ids=str)
def test_what_plain_peft_wrote_still_loads(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    model = get_peft_model(cases.build(name), LoraConfig(**{"r": 4, "lora_alpha": 6, **fields}))
    train(model)
    model.save_pretrained(tmp_path)
    expected = logits(model, cases.batches(name)[0])
    assert deviation(loaded(tmp_path, name), expected) < 1e-6
    assert deviation(loaded(tmp_path, name, trainable=False), expected) < 1e-6


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_an_uneven_outcome_with_its_head_loads(name: str, tmp_path: Path) -> None:
    model = hubinit.initialize(cases.build(name), UNEVEN, rank=4)
    train(model)
    expected = logits(model, cases.batches(name)[0])
    hubinit.export(model, tmp_path)
    assert head_size(tmp_path / WEIGHTS) == cases.LABELS
    assert deviation(loaded(tmp_path, name), expected) < 5e-6
    change(tmp_path, lambda t: {key: tensor for key, tensor in t.items() if "classifier.weight" not in key})
    refused(tmp_path, "tensor is missing|asks for more", name)


FACTORS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "no B": lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.weight"},
    "other rank": lambda t: t | {f"{Q}.lora_B.weight": torch.zeros(32, 3)},
    "a number": lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(())},
    "both other": lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(3, 32), f"{Q}.lora_B.weight": torch.zeros(32, 3)},
}


@pytest.mark.parametrize("case", FACTORS)
@pytest.mark.parametrize("where", ["trained", "start", "anchor"])
def test_finish_refuses_factors_that_do_not_fit(where: str, case: str, start: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(start, tmp_path / "trained"))
    shutil.rmtree(trained / "anchor")
    folder = {"trained": trained, "start": start, "anchor": start / "anchor"}[where]
    change(folder, FACTORS[case])
    with pytest.raises(HubinitError, match="do not have the rank"):
        finish_files(trained, start, tmp_path / "out")


def test_finish_refuses_an_anchor_for_other_weights(start: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(start, tmp_path / "trained"))
    shutil.rmtree(trained / "anchor")
    change(start / "anchor", lambda t: t | {f"{Q}.lora_A.weight": torch.zeros(4, 31)})
    with pytest.raises(HubinitError, match="its anchor/ is not its own"):
        finish_files(trained, start, tmp_path / "out")
