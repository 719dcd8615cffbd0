"""Whatever is done to the files of an adapter: it computes what they say, or is refused in one sentence."""

import json
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

import hubinit
from hubinit.adapters import patterns
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.provenance import write_manifest
from hubinit.errors import HubinitError
from tests import cases
from tests.adapters.small import UNEVEN, deviation, logits, train

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# They ask for another computation than W + s·BA and are granted it; hubinit writes them for `peft:lora` with such an option.
OTHER = {
    "alora_invocation_tokens",
    "use_qalora",
    "qalora_group_size",
    "monteclora_config",
    "velora_config",
    "use_bdlora",
}
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORDS = st.sampled_from(
    [
        "", "LORA", "VERA", "XLORA", "IA3", "ADALORA", "CAUSAL_LM", "SEQ_CLS", "pissa", "olora", "eva", "all-linear", "q_proj",
        r".*_proj", r"(x+x+)+y", r"(.*.*.*.*.*.*.*)*x", "(", "model", "lm_head", "../..", "org/other", "F32", "I8", "F8_E4M3",
    ]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-2, 9), st.sampled_from([3_000_000, 10**18, 10**40]), st.floats(allow_nan=True, allow_infinity=True)
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A start with an anchor and uneven ranks, and its outcome, both with a `hubinit.json`."""
    folder = tmp_path_factory.mktemp("made")
    model = hubinit.initialize(cases.build("llama"), UNEVEN, rank=4, rslora=True)
    saved = hubinit.save_initialized(model, folder / "start", base="org/base")
    write_manifest(model, folder / "start", saved.files, saved.bytes, saved.rank)
    train(model)
    hubinit.export(model, folder / "trained", base="org/base")
    return {"start": folder / "start", "trained": folder / "trained"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def update(folder: Path) -> dict[str, Tensor]:
    """s·BA of every module by its name, from nothing but the two files."""
    config, tensors, found = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS), {}
    for key in (key for key in tensors if key.endswith(".lora_A.weight")):
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        A, B = tensors[key].double(), tensors[key.replace(".lora_A.", ".lora_B.")].double()
        alphas = config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(alphas, name), config.get("lora_alpha", 8))
        found[name] = B @ A * alpha / (len(A) ** 0.5 if config.get("use_rslora") else len(A))
    return found


def what_the_files_say(folder: Path) -> Tensor | None:
    """The logits; None with updates so large that float32 cannot tell."""
    model = cases.build("llama", dtype=torch.float64)
    for part in (folder, folder / "anchor"):
        for name, change in update(part).items() if (part / CONFIG).is_file() else ():
            if change.abs().max() > 1e3:
                return None
            model.get_submodule(name).weight.data += change
    return logits(model, cases.batches("llama")[0])


def check(folder: Path) -> None:
    base, refusal = cases.build("llama"), None
    try:
        model = hubinit.load_initialized(base, folder)
    except HubinitError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert not adapted_layers(base)
        assert not hasattr(base, "peft_config")
        return
    expected = what_the_files_say(folder)
    if expected is not None:
        assert deviation(logits(model, cases.batches("llama")[0]), expected) < 1e-4


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def change_one(data: st.DataObject, content: Any) -> None:
    """Removes, replaces or adds one value somewhere in a JSON document."""
    path = data.draw(st.sampled_from([path for path in places(content) if path[0] not in OTHER]))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    action = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if action == "remove":
        del parent[path[-1]]
    elif action == "add" and isinstance(parent, dict):
        parent[data.draw(WORDS)] = data.draw(JUNK)
    else:
        parent[path[-1]] = data.draw(JUNK)


@pytest.mark.parametrize("file", [CONFIG, f"anchor/{CONFIG}", "hubinit.json"])
@FEW
@given(data=st.data())
def test_json(made: dict[str, Path], file: str, data: st.DataObject, tmp_path: Path) -> None:
    kinds = ["start"] if file.startswith("anchor") else ["start", "trained"]
    folder = fresh(made[data.draw(st.sampled_from(kinds))], tmp_path)
    content = json.loads((folder / file).read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        change_one(data, content)
    (folder / file).write_text(json.dumps(content))
    check(folder)


@pytest.mark.parametrize("file", [WEIGHTS, f"anchor/{WEIGHTS}"])
@FEW
@given(data=st.data())
def test_header(made: dict[str, Path], file: str, data: st.DataObject, tmp_path: Path) -> None:
    folder = fresh(made["start"], tmp_path)
    content = (folder / file).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change_one(data, header)
    text = json.dumps(header).encode()
    (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    check(folder)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, f"anchor/{CONFIG}", f"anchor/{WEIGHTS}", "hubinit.json"])
@FEW
@given(data=st.data())
def test_bytes(made: dict[str, Path], file: str, data: st.DataObject, tmp_path: Path) -> None:
    folder = fresh(made["start"], tmp_path)
    content = bytearray((folder / file).read_bytes())
    place = data.draw(st.integers(0, min(len(content), 3000) - 1))
    if data.draw(st.booleans()):
        content[place] = data.draw(st.integers(0, 255))
    else:
        del content[place:]
    (folder / file).write_bytes(content)
    check(folder)


def fresh(folder: Path, tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
    return Path(shutil.copytree(folder, tmp_path / "adapter"))
