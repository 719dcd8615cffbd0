"""Code that a model wrote: what is read out of an answer, what is run, and pass@k."""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from datasets import Dataset, load_dataset
from jinja2 import Template
from lm_eval.tasks._yaml_loader import load_yaml
from typer.testing import CliRunner

from hubinit import cli, tasks
from hubinit.cli import running
from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.runs.plan import PlannedRun, Request
from hubinit.runs.protocol import read_protocol
from hubinit.scoring import code, sandbox, score_outputs
from hubinit.scoring.code import pass_at_k
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import hash_of, wanted_decoding
from hubinit.scoring.sandbox import Limits
from hubinit.scoring.spec import Scored
from hubinit.specs import DataSpec, EvalSpec, MethodSpec, ModelSpec, RunSpec
from hubinit.tasks import humaneval, mbpp
from hubinit.tasks.coding import FENCED, LORA_GA
from tests.texts import SHARED, language_model, save_dataset, tokenizer

needs_isolation = pytest.mark.skipif(sandbox.protection() == "none", reason="this machine's kernel isolates nothing")

# The example of openai/human-eval (data/example_problem.jsonl, data/example_samples.jsonl); its README documents the outcome.
RETURN1 = {
    "task_id": "test/0",
    "prompt": "def return1():\n",
    "canonical_solution": "    return 1",
    "test": "def check(candidate):\n    assert candidate() == 1",
    "entry_point": "return1",
}
SAMPLES = [
    "    import subprocess\n    subprocess.check_output('rm -rf tmp')",
    "    import time\n    time.sleep(10)\n    return 1",
    "    return input('enter a number')",
    "    return 1",
    "  return 1",
    "\treturn 1",
]
TREE = {
    "task_id": 7,
    "text": "Write a function that counts nodes.",
    "code": "class Node:\r\n    size = 3\r\ndef count(node):\r\n    return node.size",
    "test_list": ["assert count(node) == 3"],
    "test_setup_code": "node = Node()",
    "challenge_test_list": [],
}


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_one_that_passes(samples: int) -> None:
    for passed in range(samples + 1):
        results = [index < passed for index in range(samples)]
        for k in range(1, samples + 1):
            draws = list(combinations(results, k))
            assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


def test_pass_at_k_loses_nothing_where_there_are_many_samples() -> None:
    assert pass_at_k(10**4, 1, 1) == 1e-4
    assert pass_at_k(10**4, 1, 100) == 1e-2
    product = 1 - math.prod(1 - 100 / n for n in range(200 - 3 + 1, 201))
    assert pass_at_k(200, 3, 100) == pytest.approx(product, rel=1e-12)
    assert pass_at_k(200, 101, 100) == 1.0


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_pass_at_k_without_meaning_is_refused(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(samples, passed, k)


@needs_isolation
def test_the_example_of_human_eval_has_its_documented_score(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.LIMITS.seconds < 10, "its second sample sleeps for ten seconds, and must not pass"
    monkeypatch.setattr(code, "LIMITS", Limits(seconds=3))  # human-eval's own
    scored = score_outputs("humaneval", [SAMPLES], {"test/0": RETURN1})
    assert value(scored, "pass@1") == pytest.approx(0.4999999999999999)
    assert pass_at_k(6, 3, 2) == pytest.approx(0.8)
    (item,) = scored.items
    assert item.outputs == tuple(SAMPLES)
    assert item.detail is not None and item.detail.startswith(
        "FileNotFoundError: [Errno 2] No such file or directory: 'rm"
    )
    assert item.extracted["pass@1"] == SAMPLES[0]


def value(scored: Scored, metric: str) -> float:
    return next(score.value for score in scored.scores if score.metric == metric)


@needs_isolation
def test_a_score_says_what_protected_from_the_code() -> None:
    scored = score_outputs("humaneval", ["    return 1"], {"test/0": RETURN1})
    assert {score.protection for score in scored.scores} == {sandbox.protection()}
    assert [score.metric for score in scored.scores if score.primary] == ["pass@1"]


@needs_isolation
def test_k_goes_as_far_as_there_are_samples() -> None:
    documents = {"a": RETURN1, "b": RETURN1}
    ten = ["    return 1", *["    return 2"] * 9]
    scored = score_outputs("humaneval", [ten, ["    return 2"] * 11], documents)
    assert value(scored, "pass@1") == pytest.approx(0.05)
    assert value(scored, "pass@10") == pytest.approx(0.5)
    assert not [score for score in scored.scores if score.metric.startswith("pass@100")]
    assert scored.items[0].values["pass@1"] == pytest.approx(0.1)
    assert scored.items[0].detail == "AssertionError in: assert candidate() == 1"


@needs_isolation
def test_each_reading_is_a_metric_of_its_own() -> None:
    whole = 'Here it is:\n```python\ndef return1():\n    """One."""\n    return 1\n```\nDone.'
    opened = 'def return1():\n  """One."""\n\n  if True:\n      return 1\n```'
    prompt = RETURN1 | {"prompt": 'def return1():\n    """The number one."""\n'}  # as in HumanEval, a body already
    scored = score_outputs("humaneval", [[whole], [opened]], {"a": prompt, "b": prompt})
    assert scored.items[0].values == {"pass@1": 0.0, "pass@1,fenced": 1.0, "pass@1,lora-ga": 0.0}
    assert scored.items[1].values == {"pass@1": 0.0, "pass@1,fenced": 0.0, "pass@1,lora-ga": 1.0}
    assert scored.items[1].extracted["pass@1,lora-ga"] == "def return1():\n    if True:\n        return 1"
    rates = {score.metric: score.invalid_rate for score in scored.scores}
    assert rates == {"pass@1": 0.0, "pass@1,fenced": 0.5, "pass@1,lora-ga": 0.0}


@needs_isolation
def test_mbpp_runs_setup_code_and_stops_at_its_mark() -> None:
    done = TREE["code"] + "\n[DONE]\nHere is another task: )("
    fenced = f"```python\n{TREE['code']}\n```"
    wrong = "def count(node): return 4"
    scored = score_outputs("mbpp", [[done], [fenced], [wrong]], {"a": TREE, "b": TREE, "c": TREE})
    assert [item.values["pass@1"] for item in scored.items] == [1.0, 0.0, 0.0]
    assert [item.values["pass@1,fenced"] for item in scored.items] == [0.0, 1.0, 0.0]
    assert scored.items[2].detail == "NameError: name 'Node' is not defined in: node = Node()"


@needs_isolation
@pytest.mark.parametrize(
    ("task", "document"), [("humaneval", {}), ("mbpp", {"test_list": [1]}), ("mbpp", {"test_list": 7})]
)
def test_a_document_without_tests_is_one_sentence(task: str, document: dict[str, Any]) -> None:
    with pytest.raises(HubinitError, match=rf"^Question 'a' is not one of '{task}': .+\.$"):
        score_outputs(task, [{"id": "a", "output": "x", "document": document}])


def test_the_first_closed_block_counts() -> None:
    assert FENCED.extract("a\n```python\nx = 1\ny = 2\n```\n```\nz\n```") == "x = 1\ny = 2"
    assert FENCED.extract("```\nx\n```") == "x"
    assert FENCED.extract("x = 1") is None
    assert FENCED.extract("```python\nx = 1") is None


def test_indentation_is_ranked_from_the_first_def() -> None:
    output = " def f(x):\n    '''Doc\n    string.'''\n\n    for y in x:\n\t  return y\n    return 1\n```"
    assert LORA_GA.extract(output) == "def f(x):\n    for y in x:\n        return y\n    return 1"
    assert LORA_GA.extract("  x = 1\n    y = 2") == "    x = 1\n        y = 2"  # no def: counted from the margin
    assert LORA_GA.extract("```\n\n```") is None


def test_prompts_are_those_of_lm_eval() -> None:
    folder = Path(lm_eval.tasks.__file__).parent
    ours, theirs = mbpp.ask(TREE), load_yaml(folder / "mbpp" / "mbpp.yaml", resolve_func=False)
    three = TREE | {"test_list": ["assert 1", "assert 2", "assert 3"]}
    assert mbpp.ask(three) == Template(theirs["doc_to_text"], keep_trailing_newline=True).render(**three)
    assert theirs["generation_kwargs"]["until"] == list(mbpp.TASK.generative.decoding.stop)
    assert ours.endswith("[BEGIN]\n")
    theirs = load_yaml(folder / "humaneval" / "humaneval.yaml", resolve_func=False)
    assert theirs["generation_kwargs"]["until"] == list(humaneval.STOP)
    assert humaneval.TASK.generative.prompt(RETURN1) == RETURN1["prompt"]


@pytest.fixture
def local_mbpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MBPP with two questions and the split of solved examples, in a local folder."""
    splits = {
        "train": Dataset.from_list([TREE | {"task_id": 601}]),
        "test": Dataset.from_list([TREE | {"task_id": 11}, TREE | {"task_id": 12}]),
        "prompt": Dataset.from_list([TREE | {"task_id": n, "text": f"Example {n}."} for n in (4, 1, 2, 3)]),
    }
    folder = save_dataset(tmp_path / f"mbpp-{tmp_path.name}", "full", splits)
    monkeypatch.setitem(tasks.TASKS, "mbpp", replace(mbpp.TASK, dataset=str(folder)))


@needs_isolation
def test_three_solved_examples_stand_before_each_question(local_mbpp: None) -> None:
    solved = mbpp.solved_examples(tasks.get("mbpp"), None)
    assert [solved.index(f"Example {n}.") for n in (2, 3, 4)] == sorted(
        solved.index(f"Example {n}.") for n in (2, 3, 4)
    )
    assert "Example 1." not in solved and "\r" not in solved and solved.count("\n[DONE]\n\n") == 3
    short = replace(tasks.get("mbpp").generative.decoding, max_new_tokens=4)
    tasks.TASKS["mbpp"] = replace(tasks.get("mbpp"), generative=replace(tasks.get("mbpp").generative, decoding=short))
    model = language_model()
    model.config.max_position_embeddings = 4096
    scored = evaluate_one(model, tokenizer(), EvalSpec(task="mbpp"), batch_size=2)
    assert [item.id for item in scored.items] == ["11", "12"]
    assert scored.items[0].prompt_hash == hash_of(solved + mbpp.ask(TREE))


def test_training_examples_end_with_the_mark(local_mbpp: None) -> None:
    examples, _ = tasks.training_examples(DataSpec(tasks=("mbpp",)), 0)
    assert list(examples) == [Example(mbpp.ask(TREE), TREE["code"].replace("\r", "") + "\n[DONE]")]


@needs_isolation
def test_humaneval_of_lora_ga_asks_for_the_whole_function_and_reads_it() -> None:
    task = tasks.get("humaneval-lora-ga")
    asked = task.generative.prompt(RETURN1 | {"prompt": "def return1():\n"})
    assert asked.startswith("Below is an instruction that describes a task.\n Write a response that")
    assert asked.endswith("\n\ncode:\n```python\ndef return1():\n\n```\n\n### Response:\n```python\n")
    decoding = wanted_decoding(task, EvalSpec(task=task.name))
    assert (decoding.samples, decoding.temperature, decoding.top_p, decoding.stop) == (5, 0.8, 0.95, ())
    prompt = RETURN1 | {"prompt": 'def return1():\n    """The number one."""\n'}
    samples = ["def return1():\n  return 1\n```", "def return1():\n  return 2\n```", "It is 1.", "    return 1", ""]
    scored = score_outputs(task.name, [samples], {"a": prompt})
    # right: the whole function, and the body alone, which stands behind the prompt
    assert {score.metric: score.value for score in scored.scores} == {"pass@1": pytest.approx(2 / 5)}


@pytest.mark.parametrize("protocol", ["code", "lora-one-code"])
def test_models_of_codefeedback_are_asked_in_the_frame_of_their_source(protocol: str) -> None:
    assert read_protocol(protocol).tasks["codefeedback"][0] == "humaneval-lora-ga"


def test_humaneval_has_nothing_to_train_on() -> None:
    with pytest.raises(
        HubinitError, match="'humaneval' has no training data: train on another one, and add --eval-tasks"
    ):
        tasks.training_examples(DataSpec(tasks=("humaneval",)), 0)


def test_several_samples_are_drawn_as_the_paper_did() -> None:
    one = wanted_decoding(humaneval.TASK, EvalSpec(task="humaneval"))
    many = wanted_decoding(humaneval.TASK, EvalSpec(task="humaneval", samples=20))
    assert (one.temperature, one.samples) == (0.0, 1)
    assert (many.temperature, many.top_p, many.samples, many.stop) == (0.8, 0.95, 20, humaneval.STOP)


@pytest.fixture
def unprotected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose kernel isolates nothing."""
    monkeypatch.setattr(sandbox, "protection", lambda: "none")
    monkeypatch.setenv(sandbox.ALLOW, "0")


def test_a_refusal_comes_before_the_model_has_worked(unprotected: None) -> None:
    class Model:
        def eval(self) -> Any:
            raise AssertionError("the model was used")

    with pytest.raises(HubinitError, match="isolates nothing here"):
        evaluate_one(Model(), None, EvalSpec(task="humaneval"), batch_size=1)


def test_a_benchmark_is_refused_when_it_is_planned(
    unprotected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(model=ModelSpec(id="a/b"), method=MethodSpec(name="none"), rank=0, alpha=0)
    planned = PlannedRun(spec, "humaneval", (EvalSpec(task="humaneval"),), None)
    monkeypatch.setattr(running, "plan_aloud", lambda *given, **named: ([planned], []))
    wanted = {"push_to": None, "public": False, "dry_run": True, "force": False, "as_json": True}
    with pytest.raises(HubinitError, match="isolates nothing here"):
        running.run_bench(Request(models=("a/b",)), tmp_path, **wanted)
    sandbox.allow_unprotected()
    assert running.run_bench(Request(models=("a/b",)), tmp_path, **wanted) == 0


def test_recorded_code_runs_unprotected_only_when_it_is_allowed(unprotected: None, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    outputs = tmp_path / "outputs.jsonl"
    outputs.write_text(json.dumps({"output": f"    open({str(ran)!r}, 'w')\n    return 1", "document": RETURN1}))
    arguments = ["eval", "--tasks", "humaneval", "--outputs", str(outputs), "--json"]
    refused = CliRunner().invoke(cli.app, arguments)
    assert isinstance(refused.exception, HubinitError) and "--allow-code" in str(refused.exception)
    assert not ran.exists()
    allowed = CliRunner().invoke(cli.app, [*arguments, "--allow-code"])
    assert allowed.exit_code == 0, allowed.exception
    scores = {score["metric"]: score for score in json.loads(allowed.stdout)}
    assert (scores["pass@1"]["value"], scores["pass@1"]["protection"]) == (1.0, "none")
    assert ran.exists()


@needs_isolation
@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
@pytest.mark.parametrize(
    ("task", "count", "solution"), [(humaneval.TASK, 164, "canonical_solution"), (mbpp.TASK, 120, "code")]
)
def test_all_reference_solutions_pass_and_broken_ones_fail(
    task: tasks.Task, count: int, solution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "LIMITS", Limits(seconds=120, cpu_seconds=60))  # also on a machine that is busy
    plain = replace(task, coding=replace(task.coding, readings=task.coding.readings[:1]))
    monkeypatch.setitem(tasks.TASKS, task.name, plain)
    rows = list(load_dataset(str(SHARED / task.dataset), task.config, split=task.test_split))[:count]
    documents = {task.generative.identify(row): row for row in rows}
    scored = score_outputs(task.name, [[row[solution]] for row in rows], documents)
    assert [(item.id, item.detail) for item in scored.items if item.detail] == []
    assert scored.scores[0].n == count
    broken = score_outputs(
        task.name,
        [["    return\n"] if solution != "code" else [""] for _ in rows[:40]],
        dict(list(documents.items())[:40]),
    )
    assert value(broken, "pass@1") == 0.0
