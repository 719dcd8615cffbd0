"""What strangers hand in: the honest is accepted, the hostile is rejected with a reason and harms nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from hubinit import tasks
from hubinit.hub import rescoring
from hubinit.hub.checking import check_submission
from hubinit.hub.rescoring import rescore
from hubinit.leaderboard import verdict as verdicts
from hubinit.leaderboard.submission import RESULT_BYTES, read_submission, settle
from hubinit.leaderboard.table import frame, table
from hubinit.records import Item, Provenance, Score, items_name, write_items
from hubinit.specs import EvalSpec
from tests.bombs import write_bomb
from tests.leaderboard.handed_in import EVALUATION, answered, hand_in
from tests.texts import save_arc

NO_ROWS = frame([])


@pytest.fixture(scope="module", autouse=True)
def questions(tmp_path_factory):
    """ARC from a small folder instead of the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        folder = save_arc(tmp_path_factory.mktemp("handed") / "handed-in-arc")
        patch.setitem(tasks.TASKS, "arc-easy", replace(tasks.get("arc-easy"), dataset=str(folder)))
        yield


def wrong_with(root, standing=NO_ROWS):
    """The reasons to reject what lies in a folder, answers included."""
    runs = read_submission(root)
    for run in runs:
        if run.result is not None and not run.wrong:
            rescore(run)
    settle(runs, standing)
    return " | ".join(reason for run in runs for reason in run.wrong)


def edit(root, key, change):
    """Changes the JSON of a result, whatever the models allow."""
    path = root / "runs" / key / "result.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_honest_results_are_accepted_and_their_answers_scored_again(tmp_path):
    one, two = hand_in(tmp_path), hand_in(tmp_path, seed=1)
    runs = read_submission(tmp_path)
    for run in runs:
        rescore(run)
    assert [run.wrong for run in runs] == [[], []]
    assert all("6 stored answers give the same values" in run.checks[1] for run in runs)
    assert set(settle(runs, NO_ROWS)["key"]) == {one.key, two.key}
    assert settle(runs, table([one]))["key"].unique().tolist() == [two.key]


def test_a_value_that_the_stored_answer_does_not_give_is_found(tmp_path):
    items = [item.model_copy(update={"values": {"acc": 1.0, "acc_norm": 1.0}}) for item in answered(0)]
    hand_in(tmp_path, items=items)
    honest = sum(item.values["acc_norm"] for item in answered(0))
    assert f"acc_norm: {6 - honest:.0f} answers do not give the value" in wrong_with(tmp_path)


def test_a_score_that_its_items_do_not_give_is_found(tmp_path):
    hand_in(tmp_path, value=0.99)
    assert "the score is 0.99, but its items give" in wrong_with(tmp_path)


def hand_in_scores(root, items, scores, evaluation=EVALUATION):
    """A run with these items, whose scores say what they say."""
    key = hand_in(root, scores=tuple(scores)).key
    digest = write_items(root / "runs" / key / "items" / items_name(evaluation), items)
    edit(root, key, lambda raw: [one.update(items=digest) for one in raw["scores"]])


def scored(metric, value, *, primary=True, n=6, evaluation=EVALUATION, **more):
    return Score(task=evaluation.task, metric=metric, value=value, n=n, primary=primary, eval=evaluation, **more)


def test_a_score_is_that_of_the_answers_though_items_leave_out_their_values(tmp_path):
    bare = [item.model_copy(update={"values": {}}) for item in answered(0)]
    hand_in_scores(tmp_path / "all", bare, [scored("acc", 0.99)])
    assert "the score is 0.99, its answers give" in wrong_with(tmp_path / "all")
    hand_in_scores(tmp_path / "one", [bare[0], *answered(0)[1:]], [scored("acc", 0.99)])
    assert "6 questions, but 5 items with a value" in wrong_with(tmp_path / "one")
    honest = sum(item.values["acc"] for item in answered(0)) / 6
    hand_in_scores(tmp_path / "error", answered(0), [scored("acc", honest, stderr=1e-9)])
    assert "the standard error is 1e-09" in wrong_with(tmp_path / "error")


def test_only_the_metric_of_the_task_ranks(tmp_path):
    means = {name: sum(item.values[name] for item in answered(0)) / 6 for name in ("acc", "acc_norm")}
    hand_in_scores(tmp_path / "norm", answered(0), [scored("acc_norm", means["acc_norm"])])
    assert "acc_norm: it ranks, unlike in the task" in wrong_with(tmp_path / "norm")
    invented = [scored("acc", means["acc"]), scored("my_metric", 7.0)]
    hand_in_scores(tmp_path / "invented", answered(0), invented)
    assert "my_metric: it ranks, unlike in the task" in wrong_with(tmp_path / "invented")
    program = EvalSpec(task="mbpp", limit=1)
    item = Item(id="0", outputs=("x",), values={})
    hand_in_scores(tmp_path / "program", [item], [scored("pass@1", 1.0, n=1, evaluation=program)], program)
    assert "mbpp pass@1: items have no value of it" in wrong_with(tmp_path / "program")


def test_the_score_without_trained_on_questions_is_of_the_others(tmp_path):
    items = [item.model_copy(update={"seen": number < 2}) for number, item in enumerate(answered(0))]
    values = [item.values["acc"] for item in items]
    honest = scored("acc", sum(values) / 6, contaminated=2)
    hand_in_scores(tmp_path / "honest", items, [honest, scored("acc,unseen", sum(values[2:]) / 4, primary=False, n=4)])
    assert wrong_with(tmp_path / "honest") == ""
    hand_in_scores(tmp_path / "lie", items, [honest, scored("acc,unseen", 0.99, primary=False, n=4)])
    assert "acc,unseen: the score is 0.99, its answers give" in wrong_with(tmp_path / "lie")


def test_metrics_of_all_texts_together_are_no_mean_of_their_items(tmp_path, monkeypatch):
    documents = {
        "0": {"references": ["the cat sat on the mat today"]},
        "1": {"references": ["a dog ran in the park alone"]},
    }
    monkeypatch.setattr(rescoring, "questions_of", lambda task, evaluation: documents)
    task, evaluation = tasks.get("e2e"), EvalSpec(task="e2e", limit=2)
    asked = [["the cat sat on the mat"], ["a dog"]]
    graded = rescoring.SCORERS[task.scorer].grade(task, documents, asked, evaluation)
    bleu = next(score for score in graded.scores if score.metric == "bleu")
    assert abs(bleu.value - sum(item.values["bleu"] for item in graded.items) / 2) > 0.01
    hand_in_scores(tmp_path / "honest", graded.items, graded.scores, evaluation)
    assert wrong_with(tmp_path / "honest") == ""
    lie = [score.model_copy(update={"value": 0.9}) if score is bleu else score for score in graded.scores]
    hand_in_scores(tmp_path / "lie", graded.items, lie, evaluation)
    assert "bleu: the score is 0.9, its answers give" in wrong_with(tmp_path / "lie")


def test_left_out_questions_and_invented_ones_are_found(tmp_path):
    hand_in(tmp_path, items=answered(0)[:5])
    hand_in(tmp_path, seed=1, items=[*answered(1)[:5], answered(1)[5].model_copy(update={"id": "77"})])
    assert "1 of its 6 questions have no item, and 0 items no question" in wrong_with(tmp_path)
    assert "1 of its 6 questions have no item, and 1 items no question" in wrong_with(tmp_path)


def test_free_answers_are_read_again_with_their_prompts(tmp_path, monkeypatch):
    task = tasks.get("boolq-gen")
    documents = {str(i): {"question": f"is {i} odd", "answer": bool(i % 2), "passage": ""} for i in range(4)}
    monkeypatch.setattr(rescoring, "questions_of", lambda task, evaluation: documents)
    evaluation = EvalSpec(task="boolq-gen", limit=4)
    items = [
        Item(
            id=name,
            prompt_hash=rescoring.hash_of(task.generative.prompt(document)),
            outputs=("the correct answer is true",),
            values={task.primary: float(document["answer"])},
        )
        for name, document in documents.items()
    ]

    def reasons(items):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        result = hand_in(root)
        digest = write_items(root / "runs" / result.key / "items" / items_name(evaluation), items)
        value = sum(item.values[task.primary] for item in items) / 4
        score = Score(
            task="boolq-gen", metric=task.primary, value=value, n=4, primary=True, eval=evaluation, items=digest
        )
        hand_in(root, scores=(score,))
        return wrong_with(root)

    assert reasons(items) == ""
    lie = items[2].model_copy(update={"values": {task.primary: 1.0}})
    assert "1 answers do not give the value they are said to have, such as 2" in reasons([*items[:2], lie, items[3]])
    assert "1 prompts are not those of the task" in reasons(
        [items[0].model_copy(update={"prompt_hash": "1" * 16}), *items[1:]]
    )


def test_programs_of_a_stranger_do_not_run(tmp_path):
    mark = tmp_path / "ran"
    program = f"```python\nopen({str(mark)!r}, 'w')\n```"
    evaluation = EvalSpec(task="mbpp", limit=1)
    items = [Item(id="0", outputs=(program,), values={"pass@1": 1.0})]
    result = hand_in(tmp_path)
    digest = write_items(tmp_path / "runs" / result.key / "items" / items_name(evaluation), items)
    score = Score(task="mbpp", metric="pass@1", value=1.0, n=1, primary=True, eval=evaluation, items=digest)
    hand_in(tmp_path, scores=(score,))
    (run,) = read_submission(tmp_path)
    rescore(run)
    assert run.wrong == []
    assert "mbpp: its programs are not run again; values as handed in" in run.notes
    assert not mark.exists()


def test_a_known_key_with_other_numbers_is_rejected(tmp_path):
    standing = table([hand_in(tmp_path / "old")])
    hand_in(tmp_path / "new", items=answered(5))
    assert "another row of this key stands, with another value" in wrong_with(tmp_path / "new", standing)
    hand_in(tmp_path / "moved", adapter_sha256="c" * 64)
    assert "with another adapter_sha256" in wrong_with(tmp_path / "moved", standing)


def score_of(raw):
    return raw["scores"][0]


EDITS = {
    "nan": (lambda raw: score_of(raw).update(value=float("nan")), "NaN is not a number"),
    "nan as text": (lambda raw: score_of(raw).update(value="NaN"), "finite number"),
    "infinite loss": (lambda raw: raw.update(validation_loss=float("-inf")), "-Infinity is not a number"),
    "wrong type": (lambda raw: score_of(raw).update(n="many"), "scores.0.n"),
    "a list": (lambda raw: raw.update(scores="x"), "scores"),
    "future schema": (lambda raw: raw.update(schema_version=99), "a newer hubinit wrote it"),
    "unknown field": (lambda raw: raw.update(script="import os"), "script: Extra inputs"),
    "above one": (lambda raw: score_of(raw).update(value=1.5), "between 0 and 1"),
    "negative time": (lambda raw: raw["costs"]["train"].update(seconds=-1), "seconds_train"),
    "long text": (lambda raw: raw["provenance"].update(command="x" * 10_000), "command: String should have at most"),
    "future": (lambda raw: raw["provenance"].update(created="2999-01-01T00:00:00Z"), "lies in the future"),
    "no provenance": (lambda raw: raw["provenance"].update(versions={}), "no version of hubinit and torch"),
    "token": (lambda raw: raw["provenance"].update(command="hf_" + "a" * 34), "looks like an access token"),
    "edited": (lambda raw: raw["spec"].update(learning_rate=0.5), "its key does not match"),
    "branch": (lambda raw: score_of(raw)["eval"].update(revision="refs/pr/1"), "not the 40 hex digits"),
    "no items": (lambda raw: [one.update(items=None) for one in raw["scores"]], "names no item records"),
    "other items": (lambda raw: [one.update(items="f" * 64) for one in raw["scores"]], "it was changed since"),
    "no adapter": (lambda raw: raw.update(adapter_sha256=None), "names no adapter"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_result_cannot_be(tmp_path, name):
    change, reason = EDITS[name]
    result = hand_in(tmp_path)
    edit(tmp_path, result.key, change)
    assert reason in wrong_with(tmp_path)


def test_a_base_on_somebody_s_machine_is_rejected(tmp_path):
    result = hand_in(tmp_path)
    spec = result.spec.model_copy(update={"model": result.spec.model.model_copy(update={"id": "../../etc/model"})})
    (tmp_path / "runs" / result.key).rename(tmp_path / "runs" / spec.key)
    edit(tmp_path, spec.key, lambda raw: raw.update(key=spec.key, spec=spec.model_dump(mode="json")))
    assert "its base is not a model on a Hub" in wrong_with(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}", '"half'])
def test_what_is_not_a_result_at_all(tmp_path, text):
    folder = tmp_path / "runs" / ("0" * 16)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    assert wrong_with(tmp_path).startswith("result.json")


def test_links_pipes_and_large_files_are_not_opened(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "hunter2"}')
    root = tmp_path / "handed"
    for number in range(4):
        (root / "runs" / (str(number) * 16)).mkdir(parents=True)
    (root / "runs" / ("0" * 16) / "result.json").symlink_to(secret)
    os.mkfifo(root / "runs" / ("1" * 16) / "result.json")
    with (root / "runs" / ("2" * 16) / "result.json").open("wb") as file:
        file.truncate(10**9)  # a gigabyte that takes no room
    (root / "runs" / ("3" * 16) / "items").symlink_to(tmp_path)
    found = wrong_with(root)
    assert "hunter2" not in found
    assert found.count("is a link") == 2
    assert "is not a file" in found
    assert f"has 1000000000 bytes, more than {RESULT_BYTES}" in found
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "runs").symlink_to(root / "runs")
    assert wrong_with(tmp_path / "linked") == "runs is a link"


def test_bombs_are_rejected_within_two_gigabytes_and_in_seconds(tmp_path):
    """One text of 60 MB in a thousand rows, one empty list in 10⁸ rows, and another table."""
    for seed in range(3):
        hand_in(tmp_path, seed=seed)
    folders = sorted((tmp_path / "runs").iterdir())
    paths = [folder / "items" / items_name(EVALUATION) for folder in folders]
    write_bomb(paths[0], 1000, "outputs", "x" * 60_000_000)
    schema = pq.read_schema(paths[1])
    nulls = pa.table({name: pa.nulls(10**7, kind) for name, kind in zip(schema.names, schema.types, strict=True)})
    pq.write_table(nulls.cast(schema), paths[1], compression="zstd")
    pq.write_table(pa.table({"id": ["0"]}), paths[2])
    for folder, path in zip(folders, paths, strict=True):
        from hubinit.paths import sha256_of

        digest = sha256_of(path)
        edit(tmp_path, folder.name, lambda raw, digest=digest: [one.update(items=digest) for one in raw["scores"]])
    limited = (
        "import resource, sys, pathlib\n"
        "from hubinit.leaderboard.submission import read_submission\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (30, 30))\n"
        "for run in read_submission(pathlib.Path(sys.argv[1])):\n"
        "    print(run.wrong[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    one, two, three = done.stdout.splitlines()
    assert "holds more than" in one
    assert "holds more than" in two
    assert "columns are not those" in three


def test_a_verdict_shows_what_strangers_wrote_as_plain_words(tmp_path):
    hostile = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) @everyone #1 | `x`"
    provenance = Provenance(versions={}, hardware={}, command=hostile, created=hostile)
    hand_in(tmp_path, provenance=provenance)
    hand_in(tmp_path, seed=1)
    runs = read_submission(tmp_path)
    runs[0].wrong.append(hostile)
    found = verdicts.judge(hostile, runs, settle(runs, NO_ROWS))
    assert not found.accepted
    text = verdicts.markdown(found)
    assert "<img" not in text
    assert "[click](" not in text
    assert "@everyone" not in text
    assert json.loads(found.model_dump_json())["accepted"] is False


def test_the_adapter_beside_a_run_must_be_the_one_that_was_scored(tmp_path):
    from hubinit.paths import sha256_of

    result = hand_in(tmp_path)
    weights = tmp_path / "runs" / result.key / "adapter" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"other")
    api = HfApi()
    found = check_submission(api, tmp_path, "x", NO_ROWS)
    assert "another sha256" in found.runs[0].wrong[0]
    hand_in(tmp_path, adapter_sha256=sha256_of(weights))
    assert check_submission(api, tmp_path, "x", NO_ROWS).accepted
