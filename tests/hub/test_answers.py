"""`hubinit show`: answers are found by every name of what was scored, and compared item by item."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from hubinit import tasks
from hubinit.cli.answers import run_show
from hubinit.errors import HubError, HubinitError
from hubinit.hub.pull import pull
from hubinit.hub.send import push
from hubinit.records import ITEMS, Item, ResultStore, RunResult, Score, items_name, read_items, write_items
from hubinit.specs import EvalSpec
from tests.hub.builders import adapter_files, run
from tests.texts import save_dataset

EVALUATION = EvalSpec(task="openbookqa", limit=4)
RIGHT = {1: (1, 1, 0, 0), 2: (1, 0, 1, 0), 3: (0, 0, 0, 0)}  # by seed


def items_of(seed: int) -> list[Item]:
    return [
        Item(
            id=str(index),
            prompt_hash="ab" * 8,
            extracted={"acc_norm": f"choice {seed if not right else 0}"},
            values={"acc": 0.0, "acc_norm": float(right)},
            outputs=(f"output {index} " + "long " * 200,),
        )
        for index, right in enumerate(RIGHT[seed])
    ]


def score(metric: str, value: float, *, items: str | None = None, evaluation: EvalSpec = EVALUATION) -> Score:
    return Score(
        task=evaluation.task, metric=metric, value=value, n=4, primary=metric != "acc", eval=evaluation, items=items
    )


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """Three runs with adapters and answers."""
    store = ResultStore(tmp_path / "runs")
    for seed in RIGHT:
        result = run(seed=seed, tasks=("openbookqa",))
        items = items_of(seed)
        scored = [score("acc", 0.0), score("acc_norm", sum(RIGHT[seed]) / 4)]
        scores = store.write_items(result.key, scored, items)
        store.write(result.model_copy(update={"scores": tuple(scores)}))
        adapter_files(store.folder(result.key) / "adapter", scale=seed)
    return store


def result_of(store: ResultStore, seed: int) -> RunResult:
    return next(result for result in store.results() if result.spec.seed == seed)


def show(target: object, store: ResultStore, task: str | None = None, **options: object) -> None:
    settings = {"metric": None, "wrong": False, "limit": None, "compare": None, "as_json": True} | options
    run_show(str(target), task, out=store.root, **settings)  # type: ignore[arg-type]


def shown(capsys: pytest.CaptureFixture[str], target: object, store: ResultStore, **options: object) -> dict:
    show(target, store, **options)
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "id": "",
            "question_stem": f"[bold]Stem {index}\x1b[31m",
            "choices": {"text": ["x", "gold"], "label": ["A", "B"]},
            "answerKey": "B",
        }
        for index in range(6)
    ]
    split = Dataset.from_list(rows)
    folder = save_dataset(tmp_path / f"asked-{tmp_path.name}", "main", {"train": split, "test": split})
    monkeypatch.setitem(tasks.TASKS, "openbookqa", replace(tasks.get("openbookqa"), dataset=str(folder)))


def test_a_run_is_found_by_key_prefix_folder_and_adapter(
    store: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(store, 1)
    folder = store.folder(result.key)
    for name in (result.key, result.key[:10], folder, folder / "adapter"):
        found = shown(capsys, name, store)
        assert (found["n"], found["right"], found["metric"]) == (4, 2, "acc_norm")
        assert [item["id"] for item in found["items"]] == ["0", "1", "2", "3"]
    assert [item["id"] for item in shown(capsys, folder, store, wrong=True)["items"]] == ["2", "3"]
    assert shown(capsys, folder, store, metric="acc")["right"] == 0
    assert len(shown(capsys, folder, store, limit=1)["items"]) == 1


def test_two_runs_are_compared(store: ResultStore, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = result_of(store, 1).key, result_of(store, 2).key
    found = shown(capsys, first, store, compare=second)
    assert [found[name] for name in ("both_right", "only_first", "only_second", "both_wrong", "p")] == [1, 1, 1, 1, 1.0]
    assert [pair["id"] for pair in found["items"]] == ["1", "2"]
    assert found["items"][0]["first"]["extracted"] == {"acc_norm": "choice 0"}
    assert found["items"][0]["second"]["extracted"] == {"acc_norm": "choice 2"}
    assert [pair["id"] for pair in shown(capsys, first, store, compare=second, wrong=True)["items"]] == ["2"]


def test_people_see_question_answer_and_verdict(
    store: ResultStore, questions: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = result_of(store, 1).key, result_of(store, 2).key
    show(first, store, compare=second, as_json=False)
    text = capsys.readouterr().out
    assert "both right 1" in text
    assert "McNemar's exact p = 1" in text
    assert "[bold]Stem 1" in text, "the markup of others is text"
    assert "\x1b" not in text
    assert "answer: gold" in text
    assert "right: choice 0" in text
    assert "wrong: choice 2" in text
    assert "more characters)" in text, "long outputs are folded"
    show(first, store, limit=1, as_json=False)
    assert "… and 3 more; --limit 4" in capsys.readouterr().out


def test_answers_travel_with_the_adapter(
    api: object, store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(store, 1)
    push(api, store.folder(result.key) / "adapter", "alice/answered")  # type: ignore[arg-type]
    assert shown(capsys, "alice/answered", store)["right"] == 2
    assert shown(capsys, "alice/answered", store, compare=result_of(store, 2).key)["only_first"] == 1
    out = tmp_path / "pulled"
    pull(api, "alice/answered", out=out, answers=True)  # type: ignore[arg-type]
    pull(api, "alice/answered", out=out, answers=True)  # type: ignore[arg-type]
    assert read_items(out / ITEMS / items_name(EVALUATION), result.scores[0].items) == items_of(1)
    assert shown(capsys, out, store)["right"] == 2
    push(api, out, "alice/answered-again")  # type: ignore[arg-type]
    assert shown(capsys, "alice/answered-again", store)["right"] == 2


def test_answers_that_were_changed_on_a_hub_are_refused(api: object, store: ResultStore, tmp_path: Path) -> None:
    result = result_of(store, 2)
    push(api, store.folder(result.key) / "adapter", "alice/forged")  # type: ignore[arg-type]
    write_items(tmp_path / "forged.parquet", items_of(1))
    api.upload_file(  # type: ignore[attr-defined]
        path_or_fileobj=tmp_path / "forged.parquet",
        path_in_repo=f"{ITEMS}/{items_name(EVALUATION)}",
        repo_id="alice/forged",
    )
    with pytest.raises(HubinitError, match="changed since"):
        show("alice/forged", store)
    with pytest.raises(HubError, match="is not the file that its"):
        pull(api, "alice/forged", answers=True)  # type: ignore[arg-type]


def test_a_folder_of_eval_is_found(store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scored"
    digest = write_items(out / ITEMS / items_name(EVALUATION), items_of(3))
    scores = [score("acc_norm", 0.0, items=digest)]
    (out / "scores.json").write_text(json.dumps([json.loads(one.model_dump_json()) for one in scores]))
    assert shown(capsys, out, store)["right"] == 0
    assert shown(capsys, out, store, compare=result_of(store, 1).key)["only_second"] == 2
    (out / "scores.json").write_text("[{}]")
    with pytest.raises(HubinitError, match=r"scores\.json is not a readable file of scores"):
        show(out, store)


def test_what_is_missing_or_damaged_is_one_sentence(store: ResultStore, tmp_path: Path) -> None:
    result = result_of(store, 1)
    path = store.folder(result.key) / ITEMS / items_name(EVALUATION)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HubinitError, match="does not hold the item records of this score: it was changed since"):
        show(result.key, store)
    path.unlink()
    with pytest.raises(HubinitError, match="does not hold the item records"):
        show(result.key, store)
    with pytest.raises(HubinitError, match="was not scored on 'piqa'"):
        show(result.key, store, "piqa")
    with pytest.raises(HubinitError, match="neither a folder, nor the beginning of a run's key"):
        show("nothing", store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubinitError, match="holds no results"):
        show(tmp_path / "empty", store)


def test_scores_of_different_evaluations_are_not_pairs(store: ResultStore) -> None:
    first, second = result_of(store, 1), result_of(store, 2)
    other = EvalSpec(task="openbookqa", limit=3)
    scores = store.write_items(second.key, [score("acc_norm", 0.0, evaluation=other)], items_of(2)[:3])
    store.write(second.model_copy(update={"scores": tuple(scores)}))
    with pytest.raises(HubinitError, match="in different ways"):
        show(first.key, store, compare=second.key)


def test_a_score_of_an_old_version_has_no_answers(store: ResultStore) -> None:
    result = result_of(store, 1)
    store.write(result.model_copy(update={"scores": (score("acc_norm", 0.5),)}))
    with pytest.raises(HubinitError, match="a version that kept no answers"):
        show(result.key, store)


def test_the_beginning_of_several_keys_is_refused(store: ResultStore) -> None:
    key = result_of(store, 1).key
    twin = f"{key[:4]}{'0' * 12}"
    store.folder(twin).mkdir()
    (store.folder(twin) / "result.json").write_text("{}")
    with pytest.raises(HubinitError, match=f"2 runs in .* begin with '{key[:4]}'"):
        show(key[:4], store)


def test_texts_that_are_neither_right_nor_wrong_stand_beside_their_references(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BLEU and its like are of all items together; where an item has a value, it is a degree."""
    rows = [{"meaning_representation": "name[Zizzi]", "human_reference": text} for text in ("A pub.", "Zizzi, a pub.")]
    split = Dataset.from_list([*rows, {"meaning_representation": "name[Aromi]", "human_reference": "A bar."}])
    folder = save_dataset(tmp_path / f"e2e-{tmp_path.name}", "default", {"train": split, "test": split})
    monkeypatch.setitem(tasks.TASKS, "e2e", replace(tasks.get("e2e"), dataset=str(folder)))
    evaluation = EvalSpec(task="e2e")
    wrote = {1: ("a pub by the river", "a bar"), 2: ("a pub", "a bar"), 3: ("a pub by the river", "a bar")}
    for seed, values in {1: (0.2, 1.0), 2: (0.9, 1.0), 3: (None, None)}.items():
        result = result_of(store, seed)
        items = [
            Item(id=str(place), outputs=(text,), values={} if value is None else {"bleu": value})
            for place, (text, value) in enumerate(zip(wrote[seed], values, strict=True))
        ]
        scores = store.write_items(result.key, [score("bleu", 0.5, evaluation=evaluation)], items)
        store.write(result.model_copy(update={"scores": tuple(scores)}))
    first, second, third = (result_of(store, seed).key for seed in (1, 2, 3))
    assert shown(capsys, third, store)["items"][0]["outputs"] == ["a pub by the river"], "items without a value"
    found = shown(capsys, first, store)
    assert (found["n"], found["value"], "right" in found) == (2, 0.5, False)
    assert (found["items"][0]["question"], found["items"][0]["references"]) == (
        "name[Zizzi]",
        ["A pub.", "Zizzi, a pub."],
    )
    show(first, store, as_json=False)
    text = capsys.readouterr().out
    assert "2 answers, none right or wrong by itself; together 0.5000" in text
    assert text.index("reference: Zizzi, a pub.") < text.index("wrote (bleu 0.2 by itself): a pub by the river")
    assert "    right" not in text
    assert "    wrong" not in text
    with pytest.raises(HubinitError, match="no answer to 'e2e' is right or wrong; leave out --wrong"):
        show(first, store, wrong=True)

    found = shown(capsys, first, store, compare=second)
    assert [found[name] for name in ("n", "same", "first_higher", "second_higher")] == [2, 1, 0, 1]
    assert [pair["id"] for pair in found["items"]] == ["0"]
    show(first, store, compare=second, as_json=False)
    assert "1 of 2 outputs differ; higher by itself" in capsys.readouterr().out
    with pytest.raises(HubinitError, match="has no metric 'blue'"):
        show(first, store, metric="blue")


def test_ratings_are_degrees(store: ResultStore, capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(store, 1)
    evaluation = EvalSpec(task="mt-bench", judge="j")
    items = [Item(id="81", outputs=("one", "two"), values={"score": 3.0}), Item(id="82", outputs=("a", "b"))]
    scores = store.write_items(result.key, [score("score", 3.0, evaluation=evaluation)], items)
    store.write(result.model_copy(update={"scores": tuple(scores)}))
    show(result.key, store, as_json=False)
    text = capsys.readouterr().out
    assert "2 answers, none right or wrong by itself; together 3.0000" in text
    assert "wrote (score 3 by itself): one" in text
    assert "wrote: two" in text, "both turns are shown"
