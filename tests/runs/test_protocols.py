"""Published protocols: their values, what a plan makes of them, and what this machine lacks for them."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub.errors import RevisionNotFoundError
from requests import Response

from hubinit import tasks
from hubinit.cli import protocols
from hubinit.errors import HubError, HubinitError
from hubinit.methods import METHODS
from hubinit.models import names
from hubinit.records import ResultStore
from hubinit.runs import costs, needs
from hubinit.runs.plan import Request, pinning, plan
from hubinit.runs.protocol import protocol_names, read_protocol
from hubinit.specs import MethodSettings, Protocol, RunSpec

QKVUD = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
# Read in the sources, not in the files here: rank, alpha, rsLoRA, learning rate, batch, epochs (steps), targets, length, dropout,
# schedule, warm-up (share or steps), weight decay, seed, loss on.
FACTS: dict[str, tuple[Any, ...]] = {
    "llm-adapters": (32, 64, False, 3e-4, 16, 3, QKVUD, 256, 0.05, "linear", 100, 0, 42, "all"),
    "lora-da-math": (8, 16, True, 2e-4, 32, 1, "all-linear", 1024, 0, "cosine", 0.03, 0, 9, "completion"),
    "lora-ga-math": (8, 16, True, 2e-5, 32, 1, "all-linear", 1024, 0, "cosine", 0.03, 0, 0, "completion"),
    "lora-one-math": (8, 16, True, 2e-4, 32, 1, "all-linear", 1024, 0, "cosine", 0.03, 0, 9, "completion"),
    "lora-one-commonsense": (16, 16, True, 5e-5, 16, 3, QKVUD, 256, 0.05, "cosine", 0.03, 0, 42, "completion"),
    "milora-math": (64, 128, False, 3e-4, 16, 3, QKVUD, 2048, 0.05, "linear", 100, 0, 42, "completion"),
    "pissa-math": (128, 128, False, 2e-5, 128, 1, "all-linear", 512, 0, "cosine", 0.03, 0, 42, "completion"),
    "e2e": (4, 32, False, 2e-4, 8, 5, ("c_attn",), 512, 0.1, "linear", 500, 0.01, 110, "completion"),
    "peft-metamath": (32, 64, False, 1e-4, 4, 5000, ("q_proj", "v_proj"), 768, 0, "cosine", 0.1, 0.1, 0, "all"),
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Where plans look for results; models and data are names only."""
    monkeypatch.setattr(names, "pin", lambda spec: spec.model_copy(update={"revision": "a" * 40}))
    monkeypatch.setattr(tasks, "pin", lambda name, revision=None: revision or "b" * 40)
    return ResultStore(tmp_path)


def spec_of(store: ResultStore, protocol: str, method: str, **asked: Any) -> RunSpec:
    request = Request(models=("llama3-8b",), methods=(method,), protocol=protocol, judge="local:org/judge")
    return plan(replace(request, **asked), store)[0].spec


@pytest.mark.parametrize("name", FACTS)
def test_a_protocol_runs_what_its_source_ran(store, name):
    spec = spec_of(store, name, "lora")
    recipe = spec.recipe
    assert recipe is not None
    assert (
        *(spec.rank, spec.alpha, spec.rslora, spec.learning_rate, recipe.batch_size, recipe.steps or recipe.epochs),
        *(spec.target_modules, recipe.max_length, recipe.lora_dropout, recipe.schedule),
        *(recipe.warmup_ratio if recipe.warmup_steps is None else recipe.warmup_steps, recipe.weight_decay),
        *(spec.seed, recipe.loss_on),
    ) == FACTS[name]


@pytest.mark.parametrize(
    ("protocol", "method", "expected"),
    [
        ("milora-math", "milora", (64, 64, False, 3e-4)),
        ("milora-math", "pissa", (64, 64, False, 3e-4)),
        ("llm-adapters", "milora", (32, 32, False, 3e-4)),
        ("llm-adapters", "dora", (32, 64, False, 1e-4)),
        ("llm-adapters", "lora-dash", (32, 64, False, 1e-4)),
        ("code", "pissa", (128, 128, False, 2e-5)),
        ("code", "lora-one", (8, 16, True, 2e-4)),
    ],
)
def test_a_method_gets_what_its_paper_used(store, protocol, method, expected):
    spec = spec_of(store, protocol, method)
    assert (spec.rank, spec.alpha, spec.rslora, spec.learning_rate) == expected


def test_what_the_user_sets_holds_for_every_method(store):
    assert spec_of(store, "code", "pissa", rank=4, learning_rates=(1e-3,)).model_dump(
        include={"rank", "alpha", "learning_rate"}
    ) == {"rank": 4, "alpha": 128, "learning_rate": 1e-3}
    spec = spec_of(store, "milora-math", "pissa", overrides=("alpha=7", "per_method.pissa.lora_dropout=0.5"))
    assert spec.recipe is not None
    assert (spec.alpha, spec.recipe.lora_dropout) == (7, 0.5)
    assert spec_of(store, "milora-math", "lora").recipe.lora_dropout == 0.05
    own = Protocol(per_method={"pissa": MethodSettings(lora_dropout=0.5)})
    assert own.for_all(["lora_dropout"]).for_method("pissa").recipe.lora_dropout == 0


def test_settings_for_a_method_that_does_not_exist_are_refused(store):
    with pytest.raises(HubinitError, match=r"'pisa', which is neither a method .* did you mean pissa"):
        spec_of(store, "default", "lora", overrides=("per_method.pisa.rank=3",))
    with pytest.raises(HubinitError, match=r"'per_method\.pissa\.rang' .* did you mean rank"):
        read_protocol("default", ["per_method.pissa.rang=3"])


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_plans_its_own_tasks_and_cites_its_source(store, name, monkeypatch):
    monkeypatch.setattr(names, "pin", lambda spec: spec)  # without a revision no Hub is asked for its shapes
    monkeypatch.setattr(tasks.named, "expand", lambda name: ("mbpp",))  # MMLU has 57, which lm-eval takes long to find
    monkeypatch.setattr("hubinit.runs.plan.find_judge", lambda judge: type("Judge", (), {"name": judge}))
    protocol = read_protocol(name)
    model = "vit-b32" if name == "image-vit" else "llama3-8b"
    planned = plan(Request(models=(model,), protocol=name, judge="org/judge"), store)
    trained = {run.group for run in planned}
    expected = {one for group in protocol.tasks for one in (tasks.members(group) if model == "vit-b32" else (group,))}
    assert trained == (expected or {"commonsense"})
    for run in planned:
        scored = protocol.tasks.get(run.group, (run.group,))
        assert [e.task for e in run.evaluations] == [task for group in scored for task in tasks.members(group)]
        assert run.spec.data is not None
        for task, revision in zip(run.spec.data.tasks, run.spec.data.revisions, strict=True):
            assert revision == protocol.revisions.get(tasks.get(task).dataset, "b" * 40)
    assert {run.spec.method.name for run in planned} == set(METHODS)
    if protocol.tasks:
        assert protocol.assumed, "no released code says everything that is done here"
        assert re.search(r" at [0-9a-f]{7}\b", protocol.source)
        assert all(len(names.resolve(model).id.split("/")) == 2 for model in protocol.models)
    used = {tasks.get(task).dataset for run in planned for e in run.evaluations for task in (e.task,)}
    used |= {tasks.get(task).dataset for run in planned for task in run.spec.data.tasks}
    assert protocol.revisions.keys() <= used


def test_tasks_that_the_user_names_are_scored_on_themselves(store):
    asked = Request(models=("llama3-8b",), methods=("lora",), protocol="lora-da-math", tasks=("arc-easy",))
    (run,) = plan(asked, store)
    assert [e.task for e in run.evaluations] == ["arc-easy"]
    (run,) = plan(replace(asked, tasks=None, eval_tasks=("gsm8k",)), store)
    assert (run.group, [e.task for e in run.evaluations]) == ("metamath-gsm", ["gsm8k"])


def test_a_pinned_commit_that_a_hub_lacks_is_said_once(monkeypatch):
    def pin(name: str, revision: str | None = None) -> str:
        if revision is not None:
            missing = RevisionNotFoundError("gone", response=Response()) if name != "gsm8k" else None
            raise HubError("gone") from missing
        return "b" * 40

    monkeypatch.setattr(tasks, "pin", pin)
    notes: list[str] = []
    protocol = Protocol(revisions={"allenai/ai2_arc": "c" * 40, "openai/gsm8k": "d" * 40})
    pin_task = pinning(protocol, notes.append)
    assert pin_task("arc-easy") == pin_task("arc-challenge") == pin_task("boolq") == "b" * 40
    assert notes == [
        "The protocol pins allenai/ai2_arc at cccccccccccc, which is not here; bbbbbbbbbbbb is used, and results say so."
    ]
    with pytest.raises(HubError):
        pin_task("gsm8k")


def test_data_that_a_hub_does_not_have_are_named(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "pin", lambda spec: spec.model_copy(update={"revision": "a" * 40}))
    with pytest.raises(HubError, match="Cannot find meta-math/MetaMathQA: it is not on http://127"):
        spec_of(ResultStore(tmp_path), "milora-math", "lora")


def test_new_settings_are_not_in_the_key_of_a_run_that_has_none(store):
    text = spec_of(store, "default", "lora").canonical_json()
    assert "loss_on" not in text
    assert "warmup_steps" not in text


def test_what_a_machine_lacks(monkeypatch):
    monkeypatch.setattr(needs.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(costs.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 14 << 30}))
    monkeypatch.setattr(needs.captions, "java", lambda: (_ for _ in ()).throw(HubinitError("Needs Java.")))
    monkeypatch.setattr(
        needs, "cached_sha", lambda name, kind, sha: None if name == "openai/gsm8k" else sha or "newest"
    )
    monkeypatch.delenv(needs.URL, raising=False)
    lacks = needs.lacking(read_protocol("filet"))
    assert lacks[0] == "memory for llama3-8b: its weights take 15 GiB in bfloat16, and this machine has 14 GiB"
    assert "a GPU for llama2-7b, gemma-7b, qwen2.5-7b, too large to train on the processor" in lacks
    (data,) = [line for line in lacks if line.startswith("data in the cache")]
    assert data.endswith(": openai/gsm8k")
    assert "for mt-bench: a judge (--judge-model and --judge-url)" in lacks
    assert "for e2e: needs Java." in lacks


@pytest.mark.parametrize(
    ("name", "size"),
    [("llama2-7b", 7 * 10**9), ("qwen2.5-0.5b", 5 * 10**8), ("smollm2-135m", 135 * 10**6), ("vit-b32", None)],
)
def test_sizes_are_read_in_names(name, size):
    assert needs.size_in_name(name) == size


def test_a_protocol_is_shown_in_full(capsys):
    protocols.list_protocols("llm-adapters")
    text = capsys.readouterr().out
    for part in (
        "AGI-Edgerunners/LLM-Adapters finetune.py at 063e3d4",
        "trains on commonsense-gen, scored on commonsense-gen",
        "boolq-gen: max_new_tokens 32, beams 4; acc",
        "google/boolq 35b264d03638db9f4ce671b711558bf7ff0f80d5",
        "rank 32, alpha 64,",
        "warmup_steps 100, loss_on all",
        "milora: alpha 32 (sufenlp/MiLoRA",
        "assumed:",
        "this machine lacks:",
    ):
        assert part in text
    assert "warmup_ratio" not in text, "the steps count"
    protocols.list_protocols("llm-adapters", json_=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rank"], shown["recipe"]["loss_on"], type(shown["lacks"])) == (32, "all", list)
