"""init, publish-inits, push, pull, find, sync and leaderboard as a user runs them, on a tiny model and the embedded Hub."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests import texts
from tests.command_line import run
from tests.hub import builders

pytestmark = pytest.mark.slow  # most tests start hubinit anew

TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
BASE = "tiny/chat"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A folder of its own for calibrations, start points and the outbox."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("HUBINIT_HOME")
    os.environ["HUBINIT_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HUBINIT_HOME"]
    else:
        os.environ["HUBINIT_HOME"] = before


@pytest.fixture(scope="module", autouse=True)
def base(hub, tmp_path_factory):
    """A tiny model with a chat template, and a tiny ARC-Easy, on the embedded Hub."""
    folder = tmp_path_factory.mktemp("model")
    texts.language_model().save_pretrained(folder)
    tokenizer = texts.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    files = {path.name: path for path in folder.iterdir()}
    files["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    hub.store.create_repo("model", BASE)
    hub.store.commit("model", BASE, files, message="seed", author="tests")
    data = texts.save_dataset(
        tmp_path_factory.mktemp("arc"),
        "ARC-Easy",
        {"train": texts.arc(160), "validation": texts.arc(4, first=200), "test": texts.arc(4, first=300)},
    )
    content = {path.relative_to(data).as_posix(): path for path in data.rglob("*") if path.is_file()}
    hub.store.create_repo("dataset", "allenai/ai2_arc", exist_ok=True)
    hub.store.commit("dataset", "allenai/ai2_arc", content, message="seed", author="tests")


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """The user's own conversations."""
    path = tmp_path_factory.mktemp("own") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {i}?"},
                {"role": "assistant", "content": f"It is {i + 1}."},
            ]
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hubinit(*arguments, code=0, **environment):
    """Runs the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "hubinit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-3000:]
    assert "Traceback" not in done.stderr
    assert "hf_alice" not in done.stdout + done.stderr
    return done


def here(*arguments, code=0):
    """Runs a command in this process; returns what it printed."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def refusal(*arguments):
    """The one sentence in which a command is refused."""
    done = run(*arguments)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def lines_of(printed):
    """The lines of Python in what `init` printed."""
    return printed[printed.index("from peft") :].split("\n\nShare it")[0]


def run_snippet(snippet, folder):
    """Runs what a command printed where hubinit is not imported; returns how far the logits are from the base's."""
    check = f"""
import sys, torch
assert "hubinit" not in sys.modules
ids = torch.arange(2, 20)[None]
with torch.inference_mode():
    found = model(input_ids=ids).logits
    plain = AutoModelForCausalLM.from_pretrained({BASE!r}, dtype=torch.float32).eval()(input_ids=ids).logits
print((found - plain).norm().item() / plain.norm().item(), sum(p.requires_grad for p in model.parameters()))
"""
    script = folder / "snippet.py"
    script.write_text(snippet + check)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=folder, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    deviation, trainable = done.stdout.split()[-2:]
    return float(deviation), int(trainable)


def test_the_printed_lines_load_an_init_on_own_data(chats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("init", BASE, "--method", "filet", "--data", chats, "--rank", "2", "--calibration-samples", "8")
    printed = hubinit(*command).stdout
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert folder.name.startswith("chat-filet-init-r2-own-data-")
    assert str(folder) in printed
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    assert names == {"README.md", "hubinit.json", *adapter, *(f"anchor/{name}" for name in adapter)}
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "nothing has been trained" in card
    assert str(chats.parent) not in card + (folder / "hubinit.json").read_text(), "where the data lie is private"
    deviation, trainable = run_snippet(lines_of(printed), tmp_path)
    assert deviation < 1e-5
    assert trainable == 28, "A and B of 14 linear layers"
    summary = json.loads(here(*command, "--json"))
    assert Path(summary["folder"]) == folder
    assert summary["result"]["spec"]["data"]["tasks"] == ["chats.jsonl"]


def test_init_push_pull_find_and_the_printed_lines(chats, tmp_path):
    command = ("init", BASE, "--method", "lora-da", "--data", chats, "--rank", "2", "--calibration-samples", "8")
    first = json.loads(here(*command, "--push", "alice/own-init", "--json"))
    assert first["url"].endswith("/alice/own-init")
    head = HfApi().model_info("alice/own-init")
    assert head.private
    assert json.loads(here(*command, "--push", "alice/own-init", "--json"))["result"] == first["result"]
    assert HfApi().model_info("alice/own-init").sha == head.sha, "nothing changed, nothing is committed"
    assert 1e-5 < run_snippet(first["snippet"], tmp_path)[0] < 0.1, "LoRA-DA moves the start on purpose"
    pulled = json.loads(here("pull", "alice/own-init", "--out", tmp_path / "pulled", "--json"))
    assert pulled["revision"] == head.sha
    assert (tmp_path / "pulled" / "hubinit.json").is_file()
    again = json.loads(here("push", tmp_path / "pulled", "alice/own-copy", "--public", "--json"))
    assert again["changed"]
    assert not HfApi().model_info("alice/own-copy").private
    found = json.loads(here("find", "--model", BASE, "--method", "lora-da", "--json"))
    assert {one["repo_id"] for one in found} >= {"alice/own-init", "alice/own-copy"}
    assert "No adapter" in here("find", "--task", "chats.jsonl"), "the name of the file is private"
    assert "No adapter" in here("find", "--task", "gsm8k", "--kind", "trained")


def test_weight_only_methods_need_no_data(tmp_path):
    plan = json.loads(here("init", BASE, "--method", "pissa", "--rank", "2", "--dry-run", "--json"))
    assert plan["spec"]["data"] is None
    assert not Path(plan["folder"]).exists()
    printed = here("init", BASE, "--method", "pissa", "--rank", "2", "--out", tmp_path / "start", "--alpha", "2")
    assert run_snippet(lines_of(printed), tmp_path)[0] < 1e-5
    config = json.loads((tmp_path / "start" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, BASE)

    assert "holds something else" in refusal(
        "init", BASE, "--method", "pissa", "--rank", "4", "--out", tmp_path / "start"
    )


def test_an_image_model_in_a_folder(tmp_path, monkeypatch):
    """The head for the task's classes is part of the start point; a base that is on no Hub cannot be published for."""
    from dataclasses import replace

    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pictures
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    from hubinit import tasks

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    images = [Pictures.effect_noise((16, 16), 20 * index + 20) for index in range(8)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    split = Dataset.from_dict({"image": images, "label": [i % 3 for i in range(8)]}, features=features)
    folder = texts.save_dataset(tmp_path / tmp_path.name, "default", {"train": split, "test": split})
    monkeypatch.setitem(tasks.TASKS, "digits", replace(tasks.get("digits"), dataset=str(folder)))
    command = ("init", tmp_path / "vit", "--method", "filet", "--task", "digits", "--rank", "2")
    command += ("--set", "validation_samples=2", "--calibration-samples", "4")
    summary = json.loads(here(*command, "--out", tmp_path / "start", "--json"))
    assert "num_labels=3" in summary["snippet"]
    script = tmp_path / "snippet.py"
    script.write_text(summary["snippet"] + "\nprint(model.config.num_labels)")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["3"], done.stderr[-2000:]
    assert "is not a model on a Hub" in refusal(*command, "--push", "alice/vit-init")


def test_init_says_at_once_that_it_began_what_it_computes_in_and_what_to_do_next(tmp_path):
    command = (
        sys.executable,
        "-m",
        "hubinit.cli",
        "init",
        BASE,
        "--method",
        "lora",
        "--rank",
        "2",
        "--dtype",
        "float32",
    )
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--out", tmp_path / "start"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stderr.readline() == f"hubinit init: lora for {BASE}\n"
        assert time.monotonic() - began < 10, "2 s on a quiet machine; nothing heavy is imported before"
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"loading {BASE} in float32" in said
    assert f"hubinit push {tmp_path / 'start'} NAMESPACE/chat-lora-init-r2-" in printed.splitlines()[-1]


def test_columns_and_splits_of_ones_own_data(tmp_path):
    (tmp_path / "own.csv").write_text("question,answer\n" + "".join(f"What is {i}?,It is {i}.\n" for i in range(9)))
    command = ("init", BASE, "--method", "filet", "--data", tmp_path / "own.csv", "--dry-run", "--json")
    plan = json.loads(here(*command, "--columns", "prompt=question, completion=answer"))
    assert (plan["examples"], plan["columns"]) == (9, "prompt")
    assert plan["spec"]["data"]["own"]["columns"] == {"prompt": "question", "completion": "answer"}
    assert plan["spec"]["model"]["dtype"] in ("float32", "bfloat16")


def test_targets_options_and_settings_reach_the_start_point(chats):
    plan = json.loads(
        here(
            *("init", BASE, "--method", "filet", "--data", chats, "--target-modules", "q_proj,v_proj", "--seed", "3"),
            *(
                "--set",
                "selection=R",
                "--set",
                "calibration.tokens=labels",
                "--max-length",
                "64",
                "--dry-run",
                "--json",
            ),
        )
    )
    spec = plan["spec"]
    assert spec["target_modules"] == ["q_proj", "v_proj"]
    assert spec["method"]["options"] == {"selection": "R"}
    assert (spec["calibration"]["tokens"], spec["calibration"]["max_length"], spec["seed"]) == ("labels", 64, 3)
    assert (plan["examples"], plan["columns"]) == (12, "messages")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", BASE, "--method", "filet"), "filet is data-aware: give it --task or --data"),
        (("init", BASE, "--method", "filett"), "did you mean filet"),
        (("init", BASE, "--method", "pissa", "--target-modules", ","), "--target-modules got an empty list"),
        (("init", BASE, "--method", "pissa", "--target-modules", ""), "--target-modules got an empty list"),
        (("init", BASE, "--method", "filet", "--data", "x.csv", "--columns", "prompt"), "--columns wants pairs"),
        (("init", BASE, "--method", "kasa"), "'kasa' has no start point"),
        (
            ("init", BASE, "--method", "pissa", "--set", "recpie.steps=3"),
            "neither a method nor a part of a protocol: did you mean recipe",
        ),
        (
            ("init", BASE, "--method", "pissa", "--push", "bob", "--dry-run"),
            "alice may publish under alice, not under bob",
        ),
        (
            ("publish-inits", "--models", BASE, "--methods", ",", "--tasks", "arc-easy", "--push-to", "alice"),
            "--methods got an empty list",
        ),
        (
            (
                "publish-inits",
                "--models",
                BASE,
                "--methods",
                "pissa",
                "--tasks",
                "arc-easy",
                "--push-to",
                "bob",
                "--dry-run",
            ),
            "alice may publish under alice, not under bob",
        ),
        (
            (
                *("publish-inits", "--models", BASE, "--methods", "pissa", "--tasks", "arc-easy", "--ranks", "2,4096"),
                *("--push-to", "alice", "--dry-run"),
            ),
            "rank 4096 is above",
        ),
        (("init", BASE, "--method", "none"), "no start point"),
        (("init", BASE, "--method", "full"), "'full' has no adapter, and so no start point"),
        (("init", BASE, "--method", "filet", "--data", "gone.jsonl"), "There is no file gone.jsonl"),
        (("init", BASE, "--method", "filet", "--task", "arc-easy", "--data", "x.jsonl"), "not both"),
        (("init", BASE, "--method", "filet", "--task", "digits"), "'digits' is a vision task"),
        (("init", BASE, "--method", "pissa", "--set", "nitter=3"), "has no option 'nitter'"),
        (("push", "nowhere", "alice/x"), "nowhere is not a folder"),
        (("pull", "alice/gone"), "Cannot find alice/gone"),
        (("find", "--kind", "good"), "--kind wants"),
        (("leaderboard", "--out", "nowhere"), "holds no results"),
        (
            (
                "publish-inits",
                "--models",
                BASE,
                "--methods",
                "pissa",
                "--tasks",
                "arc-easy,digits",
                "--push-to",
                "alice",
            ),
            "'digits' is a vision task and tiny/chat a language model",
        ),
        (
            ("publish-inits", "--models", BASE, "--tasks", "arc-easy", "--ranks", "0.5", "--push-to", "alice"),
            "--ranks wants",
        ),
    ],
)
def test_mistakes_are_said_in_one_sentence(arguments, message):
    assert message in refusal(*arguments)


def test_a_matrix_is_published_once_with_its_catalogue(home):
    command = ("publish-inits", "--models", BASE, "--methods", "pissa,filet,lora-da", "--tasks", "arc-easy")
    command += ("--ranks", "2,4", "--calibration-samples", "12", "--push-to", "alice", "--json")
    planned = json.loads(here(*command, "--dry-run"))
    assert len(planned) == 6
    assert {row["state"] for row in planned} == {"to do"}
    before = set((home / "calibrations").glob("*"))
    outcome = json.loads(here(*command))
    assert (len(outcome["published"]), outcome["failures"]) == (6, [])
    assert len(set((home / "calibrations").glob("*")) - before) == 1, "one calibration for both methods and ranks"
    heads = {repo: HfApi().model_info(repo).sha for repo in outcome["published"]}
    catalogue = HfApi().dataset_info("alice/hubinit-catalogue").sha
    assert json.loads(here(*command)) == outcome
    assert {repo: HfApi().model_info(repo).sha for repo in outcome["published"]} == heads
    assert HfApi().dataset_info("alice/hubinit-catalogue").sha == catalogue
    from hubinit.hub.tables import CATALOGUE, read

    found = read(HfApi(), CATALOGUE, "alice/hubinit-catalogue").astype(object)
    rows = list(found.where(found.notna(), None).itertuples())
    assert {row.repo for row in rows} == set(outcome["published"])
    assert {(row.method, row.rank, row.task) for row in rows} == {
        *((m, r, "arc-easy") for m in ("filet", "lora-da") for r in (2, 4)),
        *(("pissa", r, None) for r in (2, 4)),
    }
    assert {row.anchor for row in rows if row.method == "pissa"} == {True}
    assert {(row.method, row.start) for row in rows} == {("pissa", "keep"), ("filet", "keep"), ("lora-da", "shift")}
    assert all(row.bytes and row.seconds for row in rows)
    card = Path(HfApi().hf_hub_download("alice/hubinit-catalogue", "README.md", repo_type="dataset")).read_text()
    assert all(repo in card for repo in outcome["published"])


def test_one_start_that_cannot_be_made_costs_only_itself(hub):
    """A base without weights is only missed when it is loaded."""
    config = HfApi().hf_hub_download(BASE, "config.json")
    hub.store.create_repo("model", "tiny/empty")
    hub.store.commit("model", "tiny/empty", {"config.json": Path(config)}, message="seed", author="tests")
    command = ("publish-inits", "--models", f"tiny/empty,{BASE}", "--methods", "pissa", "--tasks", "arc-easy")
    outcome = json.loads(here(*command, "--ranks", "2", "--push-to", "alice", "--json", code=1))
    assert len(outcome["published"]) == 1
    (failure,) = outcome["failures"]
    assert failure.startswith("empty pissa r2: tiny/empty has no safetensors weights")


def test_offline_publications_wait_and_are_sent_once(chats, tmp_path, home):
    """The base is in the cache; nothing else may be asked of the Hub. Later `sync` sends both, once."""
    command = ("init", BASE, "--method", "pissa", "--rank", "3")
    here(*command, "--out", tmp_path / "warm")  # the base is in the cache now
    offline = (*command, "--push", "alice/queued", "--hub", "offline", "--json")
    queued = json.loads(hubinit(*offline, HF_ENDPOINT="http://127.0.0.1:9").stdout)
    assert queued["url"] is None
    assert Path(queued["queued"]).parent == home / "outbox"
    assert "alice" not in queued["snippet"], "it is not on the Hub yet: the folder is loaded"
    assert json.loads(hubinit(*offline, HF_ENDPOINT="http://127.0.0.1:9").stdout)["queued"] == queued["queued"]
    assert not HfApi().repo_exists("alice/queued")
    done = hubinit("sync", "--hub", "offline", code=1)
    assert "sync needs the Hub" in done.stderr
    (sent,) = json.loads(here("sync", "--json"))
    assert sent["repo_id"] == "alice/queued"
    head = HfApi().model_info("alice/queued").sha
    assert here("sync").strip() == "Nothing waits to be sent."
    assert HfApi().model_info("alice/queued").sha == head


def test_a_benchmark_offline_queues_its_adapters_and_rows(tmp_path, home, monkeypatch):
    from hubinit.hub import outbox
    from hubinit.hub.outbox import sync, waiting
    from hubinit.records import ResultStore
    from hubinit.runs.publishing import Publisher

    monkeypatch.setenv("HUBINIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(outbox, "is_offline_mode", lambda: True)
    store, result = ResultStore(tmp_path), builders.run("filet", lr=3e-3)
    store.write(result)
    builders.run_folder(store.folder(result.key))
    publisher = Publisher(store, "alice", {}, private=True)
    publisher.finish([result], cached=[result.key])
    assert publisher.failures == []
    assert [line.split(" ", 1)[1] for line in publisher.published] == ["(queued; `hubinit sync` sends it)"] * 3
    assert len(waiting(outbox.outbox_folder())) == 3
    sent = [repo.repo_id for repo in sync(HfApi(), outbox.outbox_folder())]
    assert sent == [line.split(" ")[0] for line in publisher.published]


def test_catalogue_rows_wait_offline_too(tmp_path):
    from hubinit.hub import outbox
    from hubinit.hub.tables import CATALOGUE, CatalogueRow, read

    def row(repo, created):
        return CatalogueRow(
            repo=repo, model=BASE, revision=None, method="pissa", options="{}", rank=2, alpha=4, task=None,
            calibration_samples=None, bytes=10, start="keep", anchor=True, seconds=1.0, created=created,
        )  # fmt: skip

    old, new, other = row("alice/a", "2026-01-01"), row("alice/a", "2026-01-02"), row("alice/b", "2026-01-01")
    expected = CATALOGUE.rows([old, other])
    assert CATALOGUE.merge(CATALOGUE.rows([old, other]), CATALOGUE.rows([new])).equals(expected)
    outbox.queue_rows(tmp_path, CATALOGUE, [old, other], "alice/waiting-catalogue")
    outbox.queue_rows(tmp_path, CATALOGUE, [new], "alice/waiting-catalogue")
    assert len(list(outbox.sync(HfApi(), tmp_path))) == 2
    assert read(HfApi(), CATALOGUE, "alice/waiting-catalogue").equals(expected)


def test_push_replaces_another_start_when_forced(tmp_path):
    from hubinit.hub.publication import describe

    for number in (1, 2):
        describe(
            builders.run(seed=number), builders.run_folder(tmp_path / str(number), scale=number) / "init", "initialised"
        )
    here("push", tmp_path / "1" / "init", "alice/forced")
    assert "replace it with --force" in refusal("push", tmp_path / "2" / "init", "alice/forced")
    assert json.loads(here("push", tmp_path / "2" / "init", "alice/forced", "--force", "--json"))["changed"]


def test_init_replaces_another_start_in_a_named_repository_when_forced(tmp_path):
    command = ("init", BASE, "--method", "lora", "--rank", "2", "--push", "alice/kept-init", "--json")
    here(*command, "--out", tmp_path / "0")
    assert "alice/kept-init holds another start point" in refusal(*command, "--seed", "1", "--out", tmp_path / "1")
    there = json.loads(here("pull", "alice/kept-init", "--json"))["manifest"]
    assert there["result"]["spec"]["seed"] == 0
    here(*command, "--seed", "1", "--out", tmp_path / "1", "--force")
    there = json.loads(here("pull", "alice/kept-init", "--json"))["manifest"]
    assert there["result"]["spec"]["seed"] == 1


def test_a_benchmark_that_nobody_may_publish_is_refused_before_the_work(tmp_path):
    command = ("bench", "--models", BASE, "--methods", "lora", "--tasks", "arc-easy", "--out", tmp_path, "--dry-run")
    assert "alice may publish under alice" in refusal(*command, "--push-to", "bob")


def test_the_leaderboard_of_a_folder(tmp_path):
    from hubinit.records import ResultStore

    store = ResultStore(tmp_path)
    for method, value in (("filet", 0.5), ("lora", 0.4)):
        store.write(builders.run(method, value=value))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "result.json").write_text("{")
    done = hubinit("leaderboard", "--out", tmp_path)
    assert done.stdout.index("│ filet") < done.stdout.index("│ lora")
    assert "Left out: " in done.stderr and "broken" in done.stderr
    summary = json.loads(here("leaderboard", "--out", tmp_path, "--push-to", "alice/own-board", "--json"))
    assert [row["method"] for row in summary["ranking"]] == ["filet", "lora"]
    assert HfApi().dataset_info("alice/own-board").private
