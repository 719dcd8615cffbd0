"""What strangers put on a Hub, and users into protocols, ends in one sentence: no reader lets another error out."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubinit.adapters.mark import mark_in
from hubinit.errors import HubError, HubinitError
from hubinit.hub.eval_results import OFFICIAL, find_benchmarks
from hubinit.hub.manifest import list_files, read_manifest
from hubinit.models.names import folder_kind
from hubinit.records import MANIFEST, read_result
from hubinit.runs.protocol import apply_override, read_protocol
from hubinit.scoring.target import trained_tasks
from hubinit.yamlsafe import load_untrusted_yaml
from tests.odd import JSON, RAW, YAMLS, mutated, written

fuzzed = settings(max_examples=100, deadline=None, derandomize=True, database=None)
STORED = next((Path(__file__).parent / "stored").rglob("*.json"))
RESULT = json.loads(STORED.read_text(encoding="utf-8"))
MANIFESTED = {"kind": "trained", "files": {"adapter_config.json": "0" * 64}, "result": RESULT}
BYTES = (
    st.binary(max_size=40) | st.sampled_from([*RAW]).map(written).map(str.encode) | JSON.map(written).map(str.encode)
)
WRITTEN = mutated(MANIFESTED).map(written).map(str.encode) | BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("untrusted")


def fails_as(allowed, function, *arguments):
    """Calls a function that may raise this error and no other."""
    with suppress(allowed):
        return function(*arguments)


@fuzzed
@given(YAMLS)
def test_yaml(text):
    content = fails_as(ValueError, load_untrusted_yaml, text)
    json.dumps(content, allow_nan=False)


@fuzzed
@given(WRITTEN)
def test_manifests(text):
    fails_as(HubError, read_manifest, text, "alice/x")


@fuzzed
@given(mutated(RESULT).map(written).map(str.encode) | BYTES)
def test_results(folder, text):
    (folder / "result.json").write_bytes(text)
    fails_as(HubinitError, read_result, folder / "result.json")


@fuzzed
@given(WRITTEN)
def test_what_adapters_say_of_themselves(folder, text):
    for name in ("adapter_config.json", "config.json", MANIFEST):
        (folder / name).write_bytes(text)
    mark_in(folder / "adapter_config.json")
    trained_tasks(str(folder))
    fails_as(HubinitError, folder_kind, folder)


@fuzzed
@given(WRITTEN)
def test_folders_to_publish(tmp_path_factory, text):
    directory = tmp_path_factory.mktemp("publish")
    (directory / "a.json").write_bytes(text)
    fails_as(HubError, list_files, directory)


PROTOCOL = {
    "rank": 16,
    "limit": 100,
    "recipe": {"steps": 40, "lr": 1e-4, "optimiser": "adamw"},
    "calibration": {"samples": 8, "memory_budget": "2GiB"},
    "methods": {"lora-da": {"preset": "paper"}},
}


@fuzzed
@given(mutated(PROTOCOL).map(written) | YAMLS)
def test_protocols(folder, text):
    (folder / "p.yaml").write_bytes(text.encode(errors="surrogatepass"))
    fails_as(HubinitError, read_protocol, str(folder / "p.yaml"))


@fuzzed
@given(
    st.sampled_from(["rank", "recipe.steps", "lora-da.preset", "methods", "", ".", "a.b.c"]), JSON.map(written) | YAMLS
)
def test_overrides(key, text):
    fails_as(HubinitError, apply_override, {}, f"{key}={text}")
    fails_as(HubinitError, read_protocol, "default", [f"{key}={text}"])


class Benchmarks:
    """The part of a client that is asked for a benchmark's `eval.yaml`."""

    def __init__(self, path):
        self.path = path

    def dataset_info(self, _):
        return SimpleNamespace(tags=[OFFICIAL])

    def hf_hub_download(self, *_, **__):
        return str(self.path)


@fuzzed
@example('{"tasks":true}')
@given(YAMLS | mutated({"tasks": [{"id": "arc"}]}).map(written))
def test_benchmarks(folder, text):
    (folder / "eval.yaml").write_bytes(text.encode(errors="surrogatepass"))
    task = SimpleNamespace(name="arc", dataset="a/b")
    assert set(find_benchmarks(Benchmarks(folder / "eval.yaml"), [task])) <= {"arc"}
