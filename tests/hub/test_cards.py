"""Cards: complete metadata, and nothing that a name or a command can break."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.errors import HubError
from hubinit.hub.cards import adapter_card, leaderboard_card
from hubinit.hub.publication import of_adapter, repo_name
from hubinit.records import Manifest
from hubinit.specs import EvalSpec
from hubinit.tasks import TASKS
from tests.hub.builders import adapter_files, run, run_folder


def manifest(kind: str = "trained", anchor: bool = False, **changes) -> Manifest:
    files = {"adapter_config.json": "0" * 64} | ({"anchor/adapter_config.json": "1" * 64} if anchor else {})
    return Manifest(kind=kind, result=run(**changes), files=files)


def header_and_body(card: str) -> tuple[dict, str]:
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    return yaml.safe_load(header), body


def test_metadata_of_a_trained_adapter_is_what_the_hub_indexes():
    card = adapter_card(manifest(), "alice/x", licence={"license": "apache-2.0"}, tasks=TASKS)
    data = ModelCard(card).data
    assert data.base_model == "alice/tiny-llama"
    assert data.base_model_relation == "adapter"
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "apache-2.0")
    assert {"hubinit", "lora", "filet", "arc-easy"} <= set(data.tags)
    assert data.datasets == ["allenai/ai2_arc"]
    [score] = data.eval_results
    assert (score.dataset_type, score.metric_type, score.metric_value) == ("allenai/ai2_arc", "acc_norm", 0.5)
    assert score.metric_args == {"n": 100, "stderr": 0.05, "limit": 100, "num_few_shot": 0}


def test_two_tasks_of_one_data_set_keep_their_names_in_the_model_index():
    scored = manifest(tasks=("arc-easy", "arc-challenge"))
    card = adapter_card(scored, "alice/x", tasks=TASKS)
    index = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    assert [(one["dataset"]["config"], one["dataset"]["name"], len(one["metrics"])) for one in index] == [
        ("ARC-Easy", "arc-easy", 1), ("ARC-Challenge", "arc-challenge", 1)
    ]  # fmt: skip


def test_the_name_of_a_private_file_is_on_no_card_and_in_no_name():
    private = {"tasks": ("salaries-2026.jsonl",), "command": "hubinit init m --data salaries-2026.jsonl"}
    for kind in ("initialised", "trained"):
        card = adapter_card(manifest(kind, value=None, **private), "alice/x", tasks=TASKS)
        assert "salaries" not in card
        assert "own-data" in card
        assert "own-data" not in ModelCard(card).data.tags
    spec = run(**private).spec
    assert repo_name(spec, "initialised", "alice").startswith("alice/tiny-llama-filet-init-r2-own-data-")
    assert "org/data" in adapter_card(manifest(tasks=("org/data",)), "alice/x", tasks=TASKS), "the Hub's are public"


def test_the_card_states_the_examples_there_were_and_the_modules_without_an_adapter():
    result = run().model_copy(
        update={"calibration_examples": 12, "left_out": {f"layers.{i}.gate": "1 row" for i in range(9)}}
    )
    files = {"adapter_config.json": "0" * 64}
    card = adapter_card(Manifest(kind="initialised", result=result, files=files), "alice/x", tasks=TASKS)
    assert "from 12 training examples of arc-easy" in card
    assert "| calibration | 12 examples of" in card
    assert "| modules without an adapter | 9: `layers.0.gate, " in card
    old = adapter_card(manifest("initialised"), "alice/x", tasks=TASKS)
    assert "from up to 16 training examples" in old, "version 0.1 did not say"
    assert "without an adapter" not in old


def test_a_start_point_claims_no_score_of_its_own_but_shows_what_training_gave():
    card = adapter_card(manifest("initialised"), "alice/x-init", counterpart="alice/x")
    data, body = header_and_body(card)
    assert "model-index" not in data
    assert "| arc-easy | acc_norm (ranks the task) | 0.5000 | ± 0.0500 | 100 (the first) |" in body
    assert "`alice/x`" in body
    assert "2.2 s" in body or "2.3 s" in body, "cost of the initialisation: 2.25 s"


@pytest.mark.parametrize("anchor", [False, True])
def test_only_an_anchored_start_point_prints_the_merge_line(anchor):
    card = adapter_card(manifest("initialised", anchor), "alice/x")
    assert ('subfolder="anchor").merge_and_unload()' in card) == anchor
    assert ("bfloat16" in card) == anchor
    assert 'revision="' + "a" * 40 + '", dtype="float32")' in card


HOSTILE = st.text(st.sampled_from("ab \n\r\t`|*_[](){}<>&\"'#-:!$~\\{%}\u2028\x00é"), max_size=40)


@settings(max_examples=150, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_text_breaks_a_card(model, method, task, command):
    made = manifest("initialised", model="m" + model, method="f" + method, tasks=("t" + task,), command=command)
    card = adapter_card(
        made, "alice/x", licence={"license": model}, tasks={"t" + task: replace(TASKS["piqa"], dataset=task)}
    )
    data, body = header_and_body(card)
    assert set(data) <= {
        "base_model", "base_model_relation", "datasets", "hubinit", "library_name", "license", "pipeline_tag", "tags"
    }  # fmt: skip
    assert data["base_model_relation"] == "adapter"
    prose = outside_code(body)
    assert "<" not in prose
    assert [line for line in prose.splitlines() if line.startswith("#")] == [
        "# x", "## Load it", "## Results", "## How it was made", "## Limits"
    ]  # fmt: skip


def outside_code(body: str) -> str:
    """The Markdown without code blocks and code spans, read as CommonMark does."""
    lines, closing = [], None
    for line in body.split("\n"):
        ticks = len(line) - len(line.lstrip("`"))
        if closing is None and ticks >= 3 and "`" not in line[ticks:]:
            closing = ticks
        elif closing is not None and ticks >= closing and not line[ticks:].strip():
            closing = None
        elif closing is None:
            # A backslash escapes in prose, not in a code span.
            lines.append(re.sub(r"\\(.)|`[^`]*`", lambda match: match[1] or "", line))
    assert closing is None, "a code block was left open"
    return "\n".join(lines)


def test_a_table_cell_cannot_leave_its_cell():
    card = adapter_card(manifest(tasks=("a|b\n<b>",), model="x/y"), "alice/x")
    [line] = [line for line in card.splitlines() if line.startswith("| a")]
    assert line.startswith(r"| a\|b &lt;b&gt; | acc_norm")


def test_leaderboard_card_names_its_file():
    card = leaderboard_card(
        "alice/board",
        "| a |",
        runs=1,
        rows=2,
        models=["m"],
        paths={"summary": "data/s.parquet", "runs": "data/r.parquet"},
    )
    data, body = header_and_body(card)
    assert {one["config_name"]: one["data_files"][0]["path"] for one in data["configs"]} == {
        "summary": "data/s.parquet",
        "runs": "data/r.parquet",
    }
    assert [one["config_name"] for one in data["configs"] if one.get("default")] == ["runs"]
    assert "| a |" in body
    assert 'load_dataset("alice/board", "summary"' in body
    assert '"hf://datasets/alice/board/data/s.parquet"' in body
    assert "| `delta_low` | double | of the 95 % interval |" in body


def test_names_are_stable_valid_and_shared_by_the_runs_that_share_a_start(tmp_path):
    a, b = run(lr=1e-4).spec, run(lr=1e-3).spec
    assert repo_name(a, "initialised", "alice") == repo_name(b, "initialised", "alice")
    assert repo_name(a, "trained", "alice") != repo_name(b, "trained", "alice")
    assert repo_name(a, "trained", "alice") == f"alice/tiny-llama-filet-r2-arc-easy-{a.key[:8]}"
    long = run(model="o/" + "M--." * 40, tasks=("x" * 50, "y" * 50)).spec
    name = repo_name(long, "initialised", "alice")
    assert len(name) <= 96
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)


def test_publication_states_every_hash_and_the_base_on_the_hub(tmp_path):
    folder = run_folder(tmp_path)
    config = json.loads((folder / "init" / "adapter_config.json").read_text())
    (folder / "init" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/home/me/m"}))
    made = of_adapter(run(), folder / "init", "initialised", "alice/x")
    assert set(made.manifest.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "anchor/adapter_config.json",
        "anchor/adapter_model.safetensors",
    }
    assert json.loads(made.files["adapter_config.json"])["base_model_name_or_path"] == "alice/tiny-llama"
    assert b"/home/me" not in b"".join(c for c in made.files.values() if isinstance(c, bytes))
    assert Manifest.model_validate_json(made.files["hubinit.json"]) == made.manifest


REAL_LOOKING = "hf_" + "A1b2C3d4" * 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights.bin", b"\x80\x04", "not a file that hubinit publishes"),
        ("adapter.pt", b"", "not a file that hubinit publishes"),
        (".env", b"X=1", "where programs keep credentials"),
        (".git/config", b"", "where programs keep credentials"),
        ("other.safetensors", b"\x80\x04pickle", "not a safetensors file"),
        ("notes.json", b"{", "not readable text"),
        ("notes.yaml", f"token: {REAL_LOOKING}".encode(), "access token"),
        ("notes.json", b'{"t": "hf_alice"}', "access token"),
    ],
)
def test_what_must_not_be_published_is_refused(tmp_path, name, content, said):
    folder = adapter_files(tmp_path / "adapter")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(HubError, match=said) as caught:
        of_adapter(run(), folder, "trained", "alice/x")
    assert REAL_LOOKING not in str(caught.value)
    assert "hf_alice" not in str(caught.value)


def test_links_are_refused(tmp_path):
    folder = adapter_files(tmp_path / "adapter")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(HubError, match="is a link"):
        of_adapter(run(), folder, "trained", "alice/x")


def test_a_token_in_the_command_is_not_published(tmp_path):
    folder = adapter_files(tmp_path / "adapter")
    with pytest.raises(HubError, match="access token"):
        of_adapter(run(command=f"HF_TOKEN={REAL_LOOKING} hubinit bench"), folder, "trained", "alice/x")


def test_the_card_says_who_rated_and_takes_nothing_of_it_for_markdown():
    rated = manifest().result
    score = rated.scores[0].model_copy(
        update={"metric": "score", "value": 7.5, "eval": EvalSpec(task="mt-bench", judge="wise"), "task": "mt-bench"}
    )
    hostile = score.model_copy(update={"judge_version": "wise-0613 | `x` | <b>"})
    result = rated.model_copy(update={"scores": (hostile,)})
    card = adapter_card(Manifest(kind="trained", result=result, files={}), "alice/x", tasks=TASKS)
    [row] = [line for line in card.splitlines() if line.startswith("| mt-bench |")]
    assert "rated by `wise` (`wise-0613 ∣ 'x' ∣ <b>`) | 7.5000 |" in row
    [entry] = ModelCard(card).data.eval_results
    assert (entry.dataset_type, entry.metric_args["judge"]) == ("HuggingFaceH4/mt_bench_prompts", "wise")


def test_a_card_says_which_test_items_were_trained_on():
    result = run()
    for count, said in ((0, False), (15, True)):
        scores = tuple(score.model_copy(update={"contaminated": count}) for score in result.scores)
        manifest = Manifest(kind="trained", result=result.model_copy(update={"scores": scores}), files={})
        text = adapter_card(manifest, "alice/x", tasks=TASKS)
        assert ("15 test items of arc-easy are, with their answers, in the training data." in text) is said
