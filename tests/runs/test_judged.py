"""Runs that are scored on a judged task: planned with their judge, and partial where it is down."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hubinit import tasks
from hubinit.cli import scoring as command
from hubinit.cli.environment import connect
from hubinit.cli.scoring import run_eval
from hubinit.errors import HubinitError
from hubinit.models import names
from hubinit.models.base import Loaded
from hubinit.records import ResultStore, RunResult, read_items
from hubinit.runs.costs import Stopwatch, provenance
from hubinit.runs.job import Job
from hubinit.runs.plan import Request, plan
from hubinit.runs.stages import run_stages
from hubinit.scoring import chat_client
from hubinit.specs import EvalSpec, MethodSpec, ModelSpec, RunSpec
from hubinit.tasks import mt_bench
from hubinit.tasks.spec import Decoding
from tests import texts
from tests.scoring.judges import running, says


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(name: str, rows: list[dict[str, Any]]) -> str:
        folder = tmp_path / f"{name}-{tmp_path.name}"
        return str(texts.save_dataset(folder, "default", {"train": Dataset.from_list(rows)}))

    task = tasks.get("mt-bench")
    assert task.generative is not None
    short = replace(task.generative, decoding=Decoding(max_new_tokens=4))
    questions = save("questions", [{"prompt": ["a", "b"], "category": "extraction", "reference": [], "prompt_id": 1}])
    monkeypatch.setitem(tasks.TASKS, "mt-bench", replace(task, dataset=questions, generative=short))
    arc = texts.save_arc(tmp_path / f"arc-{tmp_path.name}", test=3)
    monkeypatch.setitem(tasks.TASKS, "arc-easy", replace(tasks.get("arc-easy"), dataset=str(arc)))
    prompts = [
        {"name": name, "system_prompt": "", "prompt_template": "{answer_2}"}
        for name in ("single-v1", "single-v1-multi-turn")
    ]
    monkeypatch.setattr(mt_bench, "JUDGE_PROMPTS", save("prompts", prompts))
    monkeypatch.setenv("HUBINIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HUBINIT_JUDGE_URL", "http://127.0.0.1:9/v1")  # nobody is there
    monkeypatch.setattr(chat_client, "pause", lambda state: 0.0)


def test_only_judged_tasks_have_the_judge_and_it_is_asked_for_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "pin", lambda spec: spec.model_copy(update={"revision": "a" * 40}))
    monkeypatch.setattr(tasks, "pin", lambda name: None)
    request = Request(
        models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",), eval_tasks=("arc-easy", "mt-bench"), judge="j"
    )
    (run,) = plan(request, ResultStore(tmp_path))
    assert [(evaluation.task, evaluation.judge) for evaluation in run.evaluations] == [
        ("arc-easy", None),
        ("mt-bench", "j"),
    ]
    with pytest.raises(HubinitError, match="--judge-model"):
        plan(replace(request, judge=None), ResultStore(tmp_path))
    with pytest.raises(HubinitError, match="'mt-bench' has no training data"):
        plan(replace(request, tasks=("mt-bench",)), ResultStore(tmp_path))
    (base,) = plan(replace(request, tasks=("mt-bench",), methods=("none",), eval_tasks=None), ResultStore(tmp_path))
    assert base.spec.data is None


def test_a_judge_that_is_down_makes_a_run_partial_and_the_same_command_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelSpec(id="tiny/llama", revision="a" * 40)
    spec = RunSpec(model=base, method=MethodSpec(name="none"), rank=0, alpha=0)
    loaded = Loaded(texts.language_model(), texts.tokenizer(), base, torch.device("cpu"), torch.float32)
    store = ResultStore(tmp_path / "out")
    wanted = (EvalSpec(task="mt-bench", judge="j"), EvalSpec(task="arc-easy"))

    def run() -> RunResult:
        empty = RunResult(key=spec.key, spec=spec, status="failed", provenance=provenance("x"))
        job = Job(store=store.root, spec=spec, evaluations=wanted)
        return store.write(run_stages(job, loaded, store, Stopwatch(), lambda progress: None, empty))

    first = run()
    assert first.status == "partial"
    assert first.reason is not None
    assert first.reason.startswith("mt-bench: The judge j at http://127.0.0.1:9/v1 cannot be reached (ConnectError)")
    assert {score.task for score in first.scores} == {"arc-easy"}
    with running(lambda asked, number: says("[[9]]")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url)
        second = run()
    assert (second.status, second.reason) == ("ok", None)
    rated = next(score for score in second.scores if score.task == "mt-bench")
    assert (rated.value, rated.eval.judge, rated.judge_version) == (9.0, "j", "wise-0613 fp_1")
    assert ResultStore(tmp_path / "out").read(spec.key) == second


def test_eval_goes_on_with_the_other_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = texts.save_model(tmp_path / "model")
    options: dict[str, Any] = {"outputs": None, "batch_size": 4, "dtype": "float32", "as_json": True}
    wanted = EvalSpec(task="", judge="j")
    failed = run_eval((str(model),), ("mt-bench", "arc-easy"), wanted, out=tmp_path / "scores", **options)
    printed = capsys.readouterr()
    assert failed == 1
    rows = json.loads(printed.out)
    scores, failed_rows = [row for row in rows if "value" in row], [row for row in rows if "value" not in row]
    assert {(score["task"], score["eval"]["judge"]) for score in scores} == {("arc-easy", None)}
    assert [(row["task"], row["status"]) for row in failed_rows] == [("mt-bench", "failed")]
    assert failed_rows[0]["reason"].startswith("The judge j at")
    assert "mt-bench: The judge j at" in printed.err
    assert "Traceback" not in printed.err


def test_the_same_command_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = texts.save_model(tmp_path / "model")
    out = tmp_path / "scores"
    options: dict[str, Any] = {"outputs": None, "batch_size": 4, "dtype": "float32", "as_json": True, "out": out}
    wanted, groups = EvalSpec(task="", judge="j"), ("arc-easy", "mt-bench")
    assert run_eval((str(model),), groups, wanted, **options) == 1
    assert set(json.loads((out / "eval.json").read_text())["unfinished"]) == {"mt-bench"}
    first = json.loads((out / "scores.json").read_text())
    capsys.readouterr()
    with running(lambda asked, number: says("[[9]]")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url)
        assert run_eval((str(model),), groups, wanted, **options) == 0
    printed = capsys.readouterr()
    assert "arc-easy: scored already" in printed.err
    assert [row for row in json.loads(printed.out) if row["task"] == "arc-easy"] == first, "not done again"
    assert json.loads((out / "eval.json").read_text())["unfinished"] == {}
    assert {path.name.rpartition("-")[0] for path in (out / "items").iterdir()} == {"arc-easy", "mt-bench"}

    monkeypatch.setattr(command, "load_found", None)  # nothing is left to do, so nothing is loaded
    assert run_eval((str(model),), groups, wanted, **options) == 0
    with pytest.raises(HubinitError, match=r"holds scores of something else \(dtype float32; now dtype bfloat16\)"):
        run_eval((str(model),), groups, wanted, **(options | {"dtype": "bfloat16"}))


def test_recorded_answers_are_rated_by_the_judge_at_the_given_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs.jsonl"
    outputs.write_text('{"id": 81, "output": ["first", "second"]}\n')
    with running(lambda asked, number: says("[[9]]")) as served, connect(None, served.url):
        failed = run_eval(
            (),
            ("mt-bench",),
            EvalSpec(task="", judge="j"),
            outputs=outputs,
            batch_size=1,
            dtype="auto",
            out=tmp_path / "scores",
            as_json=False,
        )
    assert failed == 0
    assert "Rated by j (wise-0613 fp_1)" in capsys.readouterr().out
    assert len(served.asked) == 1, "both prompts of this test are the same text"
    (path,) = (tmp_path / "scores" / "items").iterdir()
    (item,) = read_items(path)
    assert (item.outputs, item.values["score"]) == (("first", "second"), 9.0)
