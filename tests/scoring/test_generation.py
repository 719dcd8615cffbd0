"""Free-text answers: batching changes nothing, and every answer is read by rules and kept."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.scoring import score_outputs
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import generate, hash_of
from hubinit.scoring.outputs import read_outputs
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Decoding, Document, Generative, Rule, Task
from tests.texts import language_model, save_dataset, tokenizer

PROMPTS = ["The answer is", "Which of these animals can fly on a clear day?", "7", "Question: What is the color"]


def prompt(row: Document) -> str:
    return f"Sum of {row['a']} and {row['b']}:"


def first_number(text: str) -> str | None:
    found = re.search(r"-?\d+", text)
    return found.group() if found else None


SUMS = Task(
    name="sums",
    title="Sums",
    kind="language",
    dataset="",
    train_split="train",
    test_split="test",
    source="a toy",
    scorer="rules",
    primary="first",
    generative=Generative(
        prompt=prompt,
        training=lambda row: Example(prompt(row), f" {row['a'] + row['b']}"),
        decoding=Decoding(max_new_tokens=4),
    ),
    rules=(
        Rule("first", first_number, lambda answer, row: int(answer) == row["a"] + row["b"], "a toy"),
        Rule(
            "last", lambda text: text.split()[-1] if text.split() else None, lambda answer, row: answer == "3", "a toy"
        ),
    ),
)


@pytest.fixture(autouse=True)
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    rows = Dataset.from_list([{"a": a, "b": 2} for a in range(5)])
    folder = save_dataset(tmp_path / f"sums-{tmp_path.name}", "default", {"train": rows, "test": rows})
    task = Task(**{**SUMS.__dict__, "dataset": str(folder)})
    monkeypatch.setitem(tasks.TASKS, "sums", task)
    return task


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=6),
        Decoding(max_new_tokens=6, beams=3, length_penalty=0.8, no_repeat_ngram=2),
    ],
    ids=["greedy", "beams"],
)
def test_neither_batch_nor_order_changes_an_answer(decoding: Decoding) -> None:
    model, tokens = (
        language_model(),
        tokenizer(),
    )  # in float32; in bfloat16 padding changes the rounding of close logits
    alone = [generate(model, tokens, [text], decoding, batch_size=1)[0] for text in PROMPTS]
    for side in ("left", "right"):  # the tokenizer's own habit does not count
        tokens.padding_side = side
        assert generate(model, tokens, PROMPTS, decoding, batch_size=4) == alone
        assert generate(model, tokens, PROMPTS[::-1], decoding, batch_size=3) == alone[::-1]


def test_greedy_is_the_likeliest_token_one_at_a_time() -> None:
    model, tokens = language_model(), tokenizer()
    ids = tokens(PROMPTS[1])["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    [[text]] = generate(model, tokens, PROMPTS[1:2], Decoding(max_new_tokens=5), batch_size=1)
    assert text == tokens.decode(ids[start:], skip_special_tokens=True)


def test_the_preferences_of_the_model_s_repository_do_not_count() -> None:
    model = language_model()
    plain = generate(model, tokenizer(), PROMPTS, Decoding(max_new_tokens=6), batch_size=4)
    model.generation_config.update(do_sample=True, temperature=9.0, top_k=3, repetition_penalty=5.0, num_beams=4)
    assert generate(model, tokenizer(), PROMPTS, Decoding(max_new_tokens=6), batch_size=4) == plain


def test_samples_differ_and_the_same_call_gives_the_same() -> None:
    decoding = Decoding(max_new_tokens=8, temperature=1.0, samples=3)
    first = generate(language_model(), tokenizer(), PROMPTS, decoding, batch_size=2)
    assert [len(samples) for samples in first] == [3] * 4
    assert len(set(first[0])) > 1
    torch.rand(1)  # the caller's own random numbers do not matter
    assert generate(language_model(), tokenizer(), PROMPTS, decoding, batch_size=2) == first


def test_an_answer_ends_before_its_stop_text() -> None:
    [[free]] = generate(language_model(), tokenizer(), PROMPTS[:1], Decoding(max_new_tokens=8), batch_size=1)
    stop = free[len(free) // 2 :][:2]
    decoding = Decoding(max_new_tokens=8, stop=(stop,))
    [[stopped]] = generate(language_model(), tokenizer(), PROMPTS[:1], decoding, batch_size=1)
    assert stopped == free[: free.index(stop)]


@pytest.mark.parametrize("own", [None, 1, [1, 2]])
def test_an_answer_ends_where_training_ends_it(own: int | list[int] | None) -> None:
    model, tokens = language_model(), tokenizer()
    asked, ids = tokens(PROMPTS[0])["input_ids"], []
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([[*asked, *ids]])).logits[0, -1].argmax()))
    model.generation_config.eos_token_id = own
    last = next(place for place in range(2, len(ids)) if ids[place] not in ids[:place])
    tokens.eos_token = tokens.convert_ids_to_tokens(ids[last])
    assert tokens.eos_token_id == ids[last] != 1
    [[ended]] = generate(model, tokens, PROMPTS[:1], Decoding(max_new_tokens=8), batch_size=1)
    assert ended == tokens.decode(ids[: last + 1])  # an ordinary token, which is shown


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stop_text_that_begins_in_the_prompt_ends_nothing(beams: int) -> None:
    [[free]] = generate(language_model(), tokenizer(), ["The answer is"], Decoding(8, beams), batch_size=1)
    stop = "is" + free[0]
    assert stop not in free
    assert generate(
        language_model(), tokenizer(), ["The answer is"], Decoding(8, beams, stop=(stop,)), batch_size=1
    ) == [[free]]


def test_what_the_prompt_says_is_not_a_repetition() -> None:
    model, tokens = language_model(), tokenizer()
    said = generate(model, tokens, PROMPTS, Decoding(max_new_tokens=6, no_repeat_ngram=1), batch_size=4)
    copied = 0
    for prompt, [text] in zip(PROMPTS, said, strict=True):
        ids, answer = tokens(prompt)["input_ids"], []
        with torch.no_grad():
            for _ in range(6):
                logits = model(torch.tensor([[*ids, *answer]])).logits[0, -1]
                logits[answer] = -torch.inf
                answer.append(int(logits.argmax()))
        assert text == tokens.decode(answer, skip_special_tokens=True)
        copied += len(set(ids) & set(answer))
    assert copied > 0


def test_prompts_that_do_not_fit_are_one_sentence() -> None:
    model = language_model()
    model.config.max_position_embeddings = 10
    with pytest.raises(HubinitError, match=r"2 of 4 prompts .* do not fit into the model's context of 10"):
        generate(model, tokenizer(), PROMPTS, Decoding(max_new_tokens=6), batch_size=4)


def test_a_model_s_answers_are_read_and_kept() -> None:
    scored = evaluate_one(language_model(), tokenizer(), EvalSpec(task="sums", limit=4), batch_size=3)
    assert [score.metric for score in scored.scores] == ["first", "last"]
    assert [score.primary for score in scored.scores] == [True, False]
    assert [item.id for item in scored.items] == ["0", "1", "2", "3"]
    assert scored.items[1].prompt_hash == hash_of("Sum of 1 and 2:")
    outputs = [item.outputs for item in scored.items]
    assert outputs == [tuple(one) for one in generate(
        language_model(), tokenizer(), [f"Sum of {a} and 2:" for a in range(4)], Decoding(max_new_tokens=4), batch_size=4
    )]  # fmt: skip


def test_recorded_outputs_are_scored_as_a_model_s() -> None:
    first, last = score_outputs("sums", ["2", "it is 3", "", "3 or 5", "6 3"]).scores
    assert (first.value, first.n, first.invalid_rate) == (pytest.approx(3 / 5), 5, pytest.approx(1 / 5))
    assert (last.value, last.invalid_rate) == (pytest.approx(2 / 5), pytest.approx(1 / 5))
    by_id = score_outputs("sums", [{"id": "4", "output": ["6", "0"]}, {"id": 1, "output": "4"}])
    assert [(item.id, item.values["first"]) for item in by_id.items] == [("4", 1.0), ("1", 0.0)]
    assert by_id.items[0].outputs == ("6", "0")
    own = score_outputs("sums", [{"document": {"a": 40, "b": 2}, "output": "42", "other": [1]}])
    assert own.scores[0].value == 1.0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["1", "2"], "2 outputs for 5 questions of 'sums'; give each its `id`, or say with --limit"),
        ([], "no outputs"),
        ([{"id": "9", "output": "1"}], "no question with id '9'"),
        ([{"id": 1, "output": "1"}, {"id": "1", "output": "2"}], "the same id"),
        ([{"id": 1, "output": "1"}, "2"], "Some outputs have an `id`"),
        (["1", {"text": "2"}], "Output 2 cannot be scored: output: Field required"),
        (["1", 7], "Output 2 cannot be scored"),
        ([{"output": []}], "Output 1 cannot be scored"),
    ],
)
def test_outputs_that_do_not_fit_are_one_sentence(outputs: list[object], message: str) -> None:
    with pytest.raises(HubinitError, match=re.escape(message)):
        score_outputs("sums", outputs)  # type: ignore[arg-type]


def test_outputs_say_nothing_about_a_task_of_log_likelihoods() -> None:
    with pytest.raises(HubinitError, match="scored by log-likelihoods"):
        score_outputs("arc-easy", ["A"])


def test_a_file_that_is_not_json_lines_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    path.write_text('{"output": "1"}\n\n{"output": \n')
    with pytest.raises(HubinitError, match=r"Line 3 of .*outputs.jsonl is not JSON"):
        read_outputs(path)
    path.write_text('{"output": "1"}\n["2"]\n')
    with pytest.raises(HubinitError, match=r"Line 2 .* is not a JSON object"):
        read_outputs(path)
    with pytest.raises(HubinitError, match="cannot be read"):
        read_outputs(tmp_path / "missing.jsonl")


def test_training_examples_come_from_the_same_rows(sums: Task) -> None:
    from hubinit.specs import DataSpec

    training, validation = tasks.training_examples(DataSpec(tasks=("sums",), validation_samples=1), seed=0)
    assert len(training) == 4
    assert {example.prompt for example in (*training, *validation)} == {f"Sum of {a} and 2:" for a in range(5)}


def test_what_does_not_fit_recorded_outputs_is_said(tmp_path: Path) -> None:
    document = {"a": 1, "b": 2}
    with pytest.raises(HubinitError, match="all of them must"):
        score_outputs("sums", [{"document": document, "output": "3"}, {"output": "3"}])
    with pytest.raises(HubinitError, match="a limit or other documents mean nothing"):
        score_outputs("sums", [{"document": document, "output": "3"}], limit=5)
    twice = score_outputs("sums", [{"document": document, "output": "3"}] * 2)
    assert twice.items[1].id == f"{twice.items[0].id}-2"
    with pytest.raises(HubinitError, match="half a character"):
        score_outputs("sums", ["\ud800"] * 5)
    assert score_outputs("sums", [{"id": "0", "output": ["2", "3"]}]).notes == (
        "4 questions of the test split have no output.",
        "Only the first of several outputs for a question counts.",
    )
    [item] = score_outputs("sums", [{"document": document, "output": "3"}]).items
    assert re.fullmatch("[0-9a-f]{16}", item.id), "not the id of another question"
    path = tmp_path / "outputs.jsonl"
    path.write_text('\ufeff{"output": "a\u2028b"}\n\n{"output": \n')
    with pytest.raises(HubinitError, match="Line 3 of"):
        read_outputs(path)
    path.write_text('\ufeff{"output": "a\u2028b"}\n')
    assert read_outputs(path) == [{"output": "a\u2028b"}]
